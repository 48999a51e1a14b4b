"""One server process: a bound socket, a ready line, and an orderly end."""

from __future__ import annotations

import math
import socket
import time
from types import FrameType

import uvicorn

from compress.errors import KompaktError
from serve.app import create_app
from serve.engine import Translator
from serve.errors import SettingsError
from serve.gate import Gate
from serve.settings import Settings

# The page keeps connections open for news that will not come; they are not worth waiting for.
_CLOSE_S = 1


def bind(settings: Settings) -> socket.socket:
    """Takes the address before anything is loaded.

    Raises:
        SettingsError: it is taken, forbidden or none of this machine's.
    """
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
        KompaktError: the engine did not start.
    """
    port = listener.getsockname()[1]
    url = f"http://{settings.loopback}:{port}"
    app = create_app(settings, engine, url)
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", log_config=None, timeout_graceful_shutdown=_CLOSE_S, lifespan="on"
    )
    gate = app.state.service.gate
    _Server(config, gate, url, settings.drain_s).run(sockets=[listener])
    if gate.failure:
        raise KompaktError(gate.failure)


class _Server(uvicorn.Server):
    """Keeps answering while it drains (uvicorn alone would close the door first)."""

    def __init__(self, config: uvicorn.Config, gate: Gate, url: str, drain_s: float) -> None:
        super().__init__(config)
        self._gate = gate
        self._url = url
        self._drain_s = drain_s
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
        if self._gate.state == "ready" and not self._announced:
            self._announced = True
            print(f"Kompakt is ready at {self._url} (stop it with Ctrl-C)", flush=True)
        if self._asked_to_leave and self._gate.state != "draining":
            self._gate.drain()
            self._leave_at = time.monotonic() + self._drain_s
        drained = self._gate.state == "draining" and not self._gate.n_inflight
        over = drained or time.monotonic() > self._leave_at or self._gate.state == "failed"
        return await super().on_tick(counter) or over
