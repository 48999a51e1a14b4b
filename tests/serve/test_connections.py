"""Clients that open connections and keep the server waiting."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from websockets.sync.client import connect

from serve.connections import SPARE, ConnectionConfig
from serve.metrics import Metrics
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, form, running, settings_for_tests, wait_until

PATH = "/v1/audio/translations"
IDLE_S = 1.0
MAX_CONNECTIONS = 3
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)


@pytest.fixture(scope="module")
def impatient() -> Iterator[Server]:
    """A server that waits for nobody, and answers with more text than sockets buffer."""
    settings = settings_for_tests(idle_s=IDLE_S)
    with running(settings, ScriptedTranslator(*["viel " * 20_000] * 300)) as server:
        yield server


def dial(server: Server) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.settimeout(PATIENCE_S)
    return connection


def is_cut(connection: socket.socket) -> bool:
    """Waits until the server ends the connection."""
    with suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return True  # otherwise the socket's own patience has raised


def trickle(connection: socket.socket, part: bytes) -> None:
    """Sends little, again and again, for as long as anybody takes it."""
    for _ in range(1000):
        connection.sendall(part)
        time.sleep(IDLE_S / 10)


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000, "-1", "1e3", "\u0665"])
def test_a_length_that_cannot_be_meant_is_refused(impatient: Server, length: str) -> None:
    with dial(impatient) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
        assert connection.recv(65536)[:12] in (b"HTTP/1.1 413", b"HTTP/1.1 400")


@pytest.mark.parametrize("words", [b"", b"POST /v1/audio/tra", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_does_not_come_is_not_waited_for(impatient: Server, words: bytes) -> None:
    with dial(impatient) as connection:
        connection.sendall(words)
        started = time.monotonic()
        assert is_cut(connection)
        assert time.monotonic() - started > IDLE_S / 2


def test_a_head_that_comes_byte_by_byte_is_not_either(impatient: Server) -> None:
    with dial(impatient) as connection, pytest.raises(ConnectionError):
        trickle(connection, b"G")


def test_a_second_request_has_the_time_of_the_first(impatient: Server) -> None:
    with dial(impatient) as connection:
        for _ in range(4):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
            time.sleep(IDLE_S / 3)
            connection.sendall(b"\r\n")
            while not connection.recv(65536).endswith(b'{"status":"live"}'):
                pass
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        assert is_cut(connection)


def test_an_answer_that_is_not_read_ends_the_request(impatient: Server, clip: Path) -> None:
    before = impatient.metric("st_requests_total", outcome="cancelled")
    request = httpx.Request("POST", impatient.url + PATH, **form(clip, model="scripted", stream="true"))
    body = request.read()
    with dial(impatient) as connection:
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        connection.sendall(f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + body)
        wait_until(lambda: impatient.metric("st_requests_total", outcome="cancelled") == before + 1)
        assert impatient.engine.n_running == 0


def test_a_body_that_nobody_wants_is_not_taken_for_ever(impatient: Server) -> None:
    with dial(impatient) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")
        with pytest.raises(ConnectionError):
            trickle(connection, bytes(1000))


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    """A server that few clients fill."""
    settings = settings_for_tests(max_connections=MAX_CONNECTIONS, max_requests=1, max_batch=1)
    with running(settings, ScriptedTranslator("Hallo")) as server:
        yield server


@contextmanager
def full(server: Server, n_connections: int = MAX_CONNECTIONS) -> Iterator[None]:
    """As many connections as the server holds, or more."""
    with ExitStack() as connections:
        for _ in range(n_connections):
            connections.enter_context(dial(server))
        yield
    wait_until(lambda: httpx.get(f"{server.url}/v1/models").status_code == 200)


def assert_refused(connection: socket.socket) -> None:
    refusal = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    head, _, body = refusal.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 503 Service Unavailable\r\n")
    assert "\r\nretry-after-ms: 1000" in head
    assert f"\r\ncontent-length: {len(body)}" in head
    assert '"code":"connections_full"' in body


def test_requests_past_the_bound_are_told_to_come_back(small: Server) -> None:
    before = small.metric("st_rejections_total", reason="connections_full")
    with full(small):
        for head in (f"POST {PATH} HTTP/1.1\r\nContent-Length: 9", f"GET / HTTP/1.1\r\n{UPGRADE}"):
            with dial(small) as connection:
                connection.sendall(f"{head}\r\nHost: x\r\n\r\n".encode())
                assert_refused(connection)
    assert small.metric("st_rejections_total", reason="connections_full") == before + 2


def test_past_the_bound_probes_are_answered(small: Server) -> None:
    with full(small):
        for path in ("/livez", "/readyz", "/health"):
            answer = httpx.get(small.url + path)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_connections_that_leave_no_room_for_probes_are_turned_away_at_once(small: Server) -> None:
    with full(small, MAX_CONNECTIONS + SPARE), dial(small) as connection:
        assert_refused(connection)


def test_a_connection_past_the_bound_that_asks_nothing_is_cut(small: Server) -> None:
    with full(small), dial(small) as connection:
        started = time.monotonic()
        assert is_cut(connection)
        assert time.monotonic() - started < small.settings.idle_s / 2


@pytest.fixture(scope="module")
def bare() -> Iterator[int]:
    """The port of a server of `patient`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(ConnectionConfig(patient, Metrics(), MAX_CONNECTIONS, IDLE_S))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)


async def patient(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that waits for whatever may come: it sends a live message back, and takes any body."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": (await receive())["text"]})
    else:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})


def test_a_live_socket_may_be_silent(bare: int) -> None:
    with connect(f"ws://127.0.0.1:{bare}") as live:
        time.sleep(3 * IDLE_S)
        live.send("still there?")
        assert live.recv() == "still there?"


def test_a_body_that_stops_is_not_waited_for_by_any_route(bare: int) -> None:
    with socket.create_connection(("127.0.0.1", bare), PATIENCE_S) as connection:
        connection.sendall(b"POST /anywhere HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n")
        for _ in range(4):
            time.sleep(IDLE_S)  # longer than that in all, but not at a time
            connection.sendall(b"0123456789")
        assert connection.recv(1000) == b""


def test_a_body_that_comes_piece_by_piece_is_taken(bare: int) -> None:
    with socket.create_connection(("127.0.0.1", bare), PATIENCE_S) as connection:
        connection.sendall(b"POST /anywhere HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n")
        for _ in range(5):
            time.sleep(IDLE_S / 2)
            connection.sendall(b"0123456789")
        assert connection.recv(1000).startswith(b"HTTP/1.1 204")
