"""The real server in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final

import psutil

from benchmarks import record
from compress.errors import RecipeError

_READY: Final = "ready at "
_STOP_S: Final = 120


@dataclass
class ServerProcess:
    """A server.

    Attributes:
        url: its address.
        process: to ask for memory and open files while it runs.
        exit_code: how it ended; None while it runs.
        log: what it logged; complete when it has ended.
    """

    url: str
    process: psutil.Process
    exit_code: int | None = None
    log: str = field(default="", repr=False)


@contextmanager
def serving(model: Path, *flags: str) -> Iterator[ServerProcess]:
    """Starts a server without the page on a free port, waits until it is ready, and stops it in order.

    Raises:
        RecipeError: it does not start.
    """
    command = [sys.executable, "-m", "serve", "--no-page", "--port", "0", "--model", str(model), *flags]
    # without the settings of a server that is not ours
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SERVE_")}
    with (
        TemporaryFile("w+", encoding="utf-8") as log,
        subprocess.Popen(
            command, cwd=record.ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            ready = next((line for line in process.stdout if _READY in line), None)
            if ready is None:
                raise RecipeError(f"the server did not start: {_read(log).strip()}")
            server = ServerProcess(ready.split(_READY)[1].split()[0], psutil.Process(process.pid))
            yield server
            process.terminate()
            server.exit_code = process.wait(_STOP_S)
            server.log = _read(log)
        finally:
            process.kill()


def _read(log: IO[str]) -> str:
    log.seek(0)
    return log.read()
