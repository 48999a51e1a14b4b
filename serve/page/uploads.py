"""How many recordings the page keeps at a time; Gradio by itself would take them without end."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import QueueFull
from serve.metrics import Metrics
from serve.problems import problem

_ROUTE: Final = "/gradio_api/upload"


class Uploads:
    """ASGI middleware that refuses further recordings while as many are kept as may be."""

    def __init__(self, app: ASGIApp, folder: Path, max_files: int, metrics: Metrics) -> None:
        self._app = app
        self._folder = folder
        self._max_files = max_files
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "http" and scope["path"] == _ROUTE and _count(self._folder) >= self._max_files:
            refusal = problem(QueueFull("too many recordings were uploaded of late; try again in some minutes"))
            self._metrics.reject("uploads_full")
            await refusal.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _count(folder: Path) -> int:
    """Files at most one folder deep; removes the folders that Gradio leaves behind when it deletes what is in them."""
    n = 0
    for entry in folder.iterdir():
        if entry.is_dir():
            n += sum(1 for _ in entry.iterdir())
            with suppress(OSError):  # it is not empty
                entry.rmdir()
        else:
            n += 1
    return n
