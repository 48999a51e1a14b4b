"""What a connection may hold beside its requests: uvicorn alone would wait without end for a head or a reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from serve.auth import OPEN
from serve.live.events import MAX_MESSAGE_BYTES
from serve.metrics import Metrics
from serve.problems import CONNECTIONS_FULL

SPARE: Final = 16  # connections past the bound on which a probe is answered; each is there for one request
_SPARE_S: Final = 1.0  # for its head
_CLOSE_S: Final = 1  # the page keeps connections open for news that will not come; they are not worth waiting for


class ConnectionConfig(uvicorn.Config):
    """How the connections of an application are served.

    Attributes:
        metrics: counts those that are turned away.
        max_connections: further ones are told to come back, unless they ask what the probes ask.
        idle_s: seconds that a client may take for the head of a request, for reading on, or for a body nobody wants.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, max_connections: int, idle_s: float, **options: Any) -> None:
        super().__init__(
            app,
            loop="asyncio",  # whether or not some other package has brought uvloop
            http=Connection,
            ws=LiveConnection,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_ping_timeout=None,  # while a client has to wait, its pongs wait behind its audio
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_CLOSE_S,
            **options,
        )
        self.metrics = metrics
        self.max_connections = max_connections
        self.idle_s = idle_s


class Connection(H11Protocol):
    """A connection that is cut when its client keeps it waiting."""

    config: ConnectionConfig

    def __init__(
        self,
        config: ConnectionConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._until_request = _Clock(self.loop, config.idle_s, self._cut)
        self._until_read = _Clock(self.loop, config.idle_s, self._cut)
        # an application that waits for a body has `idle_s` to say so itself
        self._until_body = _Clock(self.loop, 2 * config.idle_s, self._cut_unless_paused)
        self._handed_over = False
        self._is_spare = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Starts the clock, or turns the client away: at once where no probe is waited for any more."""
        super().connection_made(transport)
        n_too_many = len(self.connections) - self.config.max_connections
        if n_too_many > 0:
            self._is_spare = True
            self.app = self._answer_probe
            self._until_request = _Clock(self.loop, min(_SPARE_S, self.config.idle_s), self._cut)
        self._watch()
        if n_too_many > SPARE:
            self._refuse()

    def data_received(self, data: bytes) -> None:
        """Goes by what the data have changed."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """From now on it is the client's turn again."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._until_read.start()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._until_read.stop()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Leaves the connection to another protocol, with clocks of its own; a spare one is for probes."""
        if self._is_spare:
            self._refuse()
            return
        self._handed_over = True
        self._until_request.stop()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clocks."""
        super().connection_lost(exc)
        self._handed_over = True
        for clock in (self._until_request, self._until_body, self._until_read):
            clock.stop()

    async def _answer_probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application of a spare connection: an orchestrator learns that the server lives, others come back."""

        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        if scope["path"] in OPEN:
            await self.config.loaded_app(scope, receive, send_and_close)
        else:
            self.config.metrics.reject(str(CONNECTIONS_FULL.code))
            await CONNECTIONS_FULL.response()(scope, receive, send_and_close)

    def _refuse(self) -> None:
        self.config.metrics.reject(str(CONNECTIONS_FULL.code))
        self.transport.write(_REFUSAL)
        self.transport.close()

    def _watch(self) -> None:
        """Counts the time that the client lets pass; what the application does has limits of its own."""
        cycle: RequestResponseCycle | None = self.cycle
        self._until_body.stop()
        if self._handed_over:
            return
        if cycle is None or cycle.response_complete:
            self._until_request.start()
            return
        self._until_request.stop()
        if cycle.more_body:
            self._until_body.start()

    def _cut(self) -> None:
        self.transport.abort()  # to close it would wait for the client once more

    def _cut_unless_paused(self) -> None:
        if self.flow.read_paused:  # it is the application that keeps the client waiting
            self._watch()
        else:
            self._cut()


class LiveConnection(WebSocketsSansIOProtocol):
    """A live socket that is cut when its client does not read; `live.conversation` has its other limits."""

    config: ConnectionConfig

    def __init__(
        self,
        config: ConnectionConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._until_read = _Clock(self.loop, config.idle_s, self._cut)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is told."""
        super().pause_writing()
        self._until_read.start()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._until_read.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clock."""
        super().connection_lost(exc)
        self._until_read.stop()

    def _cut(self) -> None:
        self.transport.abort()


class _Clock:
    """Rings once after some seconds; starting one that runs changes nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._ring)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def _bytes() -> bytes:
    """The answer to a connection that is one too many, whatever it would have asked."""
    answer = CONNECTIONS_FULL.response()
    status = HTTPStatus(answer.status_code)
    head = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode()), b"connection: close"]
    head += [name + b": " + value for name, value in answer.raw_headers]
    return b"\r\n".join([*head, b"", bytes(answer.body)])


_REFUSAL: Final = _bytes()
