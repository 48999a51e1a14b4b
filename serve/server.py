"""One server process: a bound socket, a ready line, and an orderly end."""

from __future__ import annotations

import math
import resource
import socket
import time
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from compress.errors import KompaktError
from serve.app import create_app
from serve.connections import SPARE, ConnectionConfig
from serve.engine import Translator
from serve.errors import SettingsError
from serve.gate import Gate
from serve.logs import announce
from serve.routes import Service
from serve.settings import Settings
from serve.tracing import exporting_tracer

_FILES: Final = 128  # open files that no connection needs: libraries, weights, the page
_FAILED_S: Final = 2  # after the engine's death: for answers that say so to leave, and for a probe to see it


def bind(settings: Settings) -> socket.socket:
    """Takes the address before anything is loaded.

    Raises:
        SettingsError: it is taken, forbidden or none of this machine's, or fewer connections can be open than are set.
    """
    _allow_files(settings)
    try:
        family, *_, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise SettingsError(f"cannot listen on {settings.host} port {settings.port}: {reason}") from error
    return listener


def serve(settings: Settings, engine: Translator, listener: socket.socket) -> None:
    """Serves until SIGTERM or Ctrl-C, then finishes what runs.

    Raises:
        KompaktError: the engine did not start, or died.
    """
    url = f"http://{settings.loopback}:{listener.getsockname()[1]}"
    app = create_app(settings, engine, url, exporting_tracer() if settings.tracing else None)
    server = Server(app, settings, url)
    server.run(sockets=[listener])
    if server.gate.failure:
        raise KompaktError(server.gate.failure)


class Server(uvicorn.Server):
    """Keeps answering while it drains (uvicorn alone would close the door first), and ends when its engine has."""

    def __init__(self, app: FastAPI, settings: Settings, url: str) -> None:
        service: Service = app.state.service
        super().__init__(ConnectionConfig(app, service.metrics, settings.max_connections, settings.idle_s))
        self.gate: Gate = service.gate
        self._settings = settings
        self._url = url
        self._announced = False
        self._asked_to_leave = False
        self._leave_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain.  Second: leave at once."""
        if self._asked_to_leave:
            self.should_exit = self.force_exit = True
        self._asked_to_leave = True  # no more than that: a signal may arrive while a lock is held

    async def on_tick(self, counter: int) -> bool:
        """Runs ten times a second; True ends the server."""
        gate = self.gate
        gate.notice_death()
        if gate.state == "ready" and not self._announced:
            self._announced = True
            line = f"Kompakt is ready at {self._url} (stop it with Ctrl-C)"
            announce(line, self._settings.log_format)
        if self._asked_to_leave and gate.state not in ("draining", "failed"):
            gate.drain()
            self._leave_by(self._settings.drain_s)
        if gate.state == "failed":
            self._leave_by(_FAILED_S)
        drained = gate.state == "draining" and not gate.n_inflight and not self._n_unsent()
        over = drained or time.monotonic() > self._leave_at
        return await super().on_tick(counter) or over

    def _leave_by(self, seconds: float) -> None:
        self._leave_at = min(self._leave_at, time.monotonic() + seconds)

    def _n_unsent(self) -> int:
        """Bytes of answers that clients have not taken yet."""
        return sum(connection.transport.get_write_buffer_size() for connection in self.server_state.connections)


def _allow_files(settings: Settings) -> None:
    """Lets this process open as many files as its connections and uploads may need."""
    needed = settings.max_connections + SPARE + settings.max_requests + _FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise SettingsError(
            f"max_connections {settings.max_connections} and max_requests {settings.max_requests} need {needed} open "
            f"files, but this process may have {hard}: lower them, or raise the limit (ulimit -n)"
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
