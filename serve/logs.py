"""Log lines for people and for programs.  Neither audio nor text is ever logged."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

logger = logging.getLogger(__name__)

LogFormat = Literal["text", "json"]

# of the request on whose behalf this task or thread works; "" outside of one
request_id: ContextVar[str] = ContextVar("request_id", default="")


def configure(log_format: LogFormat) -> None:
    """Sends what this process logs to stderr: its own notes, and warnings of everything else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("serve").setLevel(logging.INFO)
    logging.captureWarnings(True)


def announce(line: str, log_format: LogFormat) -> None:
    """Tells whoever started the server: on stdout, or in the log where a program reads along."""
    if log_format == "json":
        logger.info("%s", line)
    else:
        print(line, flush=True)


class TextFormatter(logging.Formatter):
    """`time level request message`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """See `logging.Formatter`."""
        words = [_time(record), record.levelname, request_id.get(), record.message]
        return " ".join(word for word in words if word)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, what `extra={"fields": …}` adds, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
