"""What the server refuses, and what it does when a client goes away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from compress.checkpoint import Checkpoint
from serve.transformers_engine import TransformersEngine
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, form, running, settings_for_tests, wait_until

PATH = "/v1/audio/translations"
PLACES = 2
MAX_BYTES = 1_000_000


@pytest.fixture(scope="module")
def small(endless: Checkpoint) -> Iterator[Server]:
    """A server with few places and a small bound, whose model never ends a text."""
    engine = TransformersEngine([endless], device="cpu", max_batch=PLACES, max_new_tokens=1500)
    settings = settings_for_tests(max_batch=PLACES, max_requests=PLACES, max_upload_bytes=MAX_BYTES)
    with running(settings, engine) as server:
        yield server


def ended(server: Server, outcome: str) -> float:
    return server.metric("st_requests_total", outcome=outcome)


def idle(server: Server) -> bool:
    return server.metric("st_inflight_requests") == 0 and server.engine.n_running == 0


def head(server: Server, *headers: str) -> bytes:
    """The head of a request whose body is still to come."""
    lines = [f"POST {PATH} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", *headers]
    return "\r\n".join([*lines, "Content-Type: multipart/form-data; boundary=x", "", ""]).encode()


def answer(connection: socket.socket) -> str:
    """The first bytes that come back, as text."""
    connection.settimeout(PATIENCE_S)
    return connection.recv(4096).decode()


def test_a_disconnect_in_a_stream_frees_the_slot_and_is_counted(small: Server, clip: Path) -> None:
    before = ended(small, "cancelled")
    with httpx.stream(
        "POST", small.url + PATH, timeout=PATIENCE_S, **form(clip, model="endless", stream="true")
    ) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        assert small.engine.n_running == 1
    wait_until(lambda: idle(small) and ended(small, "cancelled") == before + 1)


def test_a_disconnect_before_the_answer_does_too(small: Server, clip: Path) -> None:
    before = ended(small, "cancelled")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(small.url + PATH, timeout=httpx.Timeout(PATIENCE_S, read=0.3), **form(clip, model="endless"))
    wait_until(lambda: idle(small) and ended(small, "cancelled") == before + 1)


def test_a_disconnect_during_the_upload_does_too(small: Server) -> None:
    before = ended(small, "cancelled")
    with socket.create_connection(("127.0.0.1", small.port)) as connection:
        connection.sendall(head(small, "Content-Length: 5000") + b"--x\r\n")
        wait_until(lambda: small.metric("st_inflight_requests") == 1)
    wait_until(lambda: idle(small) and ended(small, "cancelled") == before + 1)


def test_a_full_server_refuses_before_the_body_and_soon_has_room_again(small: Server, clip: Path) -> None:
    rejected = small.metric("st_rejections_total", reason="queue_full")
    streaming: list[Iterator[str]] = []  # kept, because a stream is closed with its iterator
    with ExitStack() as streams:
        for _ in range(PLACES):
            request = httpx.stream(
                "POST", small.url + PATH, timeout=PATIENCE_S, **form(clip, model="endless", stream="true")
            )
            streaming.append(streams.enter_context(request).iter_lines())
            next(streaming[-1])
        with socket.create_connection(("127.0.0.1", small.port)) as connection:
            connection.sendall(head(small, "Content-Length: 500000"))
            refusal = answer(connection)
        assert refusal.startswith("HTTP/1.1 429")
        for words in ("retry-after: 1\r\n", "retry-after-ms: 1000\r\n", "x-request-id: req_"):
            assert words in refusal.lower()
        assert httpx.get(f"{small.url}/readyz").status_code == 200, "busy is not unready"
    assert small.metric("st_rejections_total", reason="queue_full") == rejected + 1
    wait_until(lambda: idle(small))
    fields = {"model": "endless", "max_completion_tokens": "2"}
    assert httpx.post(small.url + PATH, timeout=PATIENCE_S, **form(clip, **fields)).status_code == 200


def test_an_announced_upload_past_the_bound_is_refused_unread(small: Server) -> None:
    with socket.create_connection(("127.0.0.1", small.port)) as connection:
        connection.sendall(head(small, f"Content-Length: {MAX_BYTES + 1}"))
        refusal = answer(connection)
    assert refusal.startswith("HTTP/1.1 413")
    assert "x-request-id" in refusal.lower()


def test_an_upload_of_unknown_length_is_counted_as_it_arrives(small: Server) -> None:
    chunk = b"8000\r\n" + bytes(0x8000) + b"\r\n"
    with socket.create_connection(("127.0.0.1", small.port)) as connection:
        connection.sendall(head(small, "Transfer-Encoding: chunked"))
        part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        for _ in range(MAX_BYTES // 0x8000 + 1):
            connection.sendall(chunk)
        assert answer(connection).startswith("HTTP/1.1 413")
    wait_until(lambda: idle(small))


def test_clients_that_send_too_much_read_the_reason(small: Server) -> None:
    response = httpx.post(small.url + PATH, files={"file": bytes(3 * MAX_BYTES)}, data={"model": "endless"})
    assert response.status_code == 413
    assert f"{MAX_BYTES:,} bytes" in response.json()["error"]["message"]


def test_loading_then_ready_then_draining(clip: Path) -> None:
    engine = ScriptedTranslator("Hallo")
    engine.may_start.clear()
    with running(settings_for_tests(), engine, ready=False) as server:
        for refusal in (httpx.get(f"{server.url}/readyz"), httpx.post(server.url + PATH, **form(clip))):
            assert refusal.status_code == 503
            assert refusal.headers["retry-after"] == "1"
            assert refusal.json()["error"]["code"] == "loading"
        assert httpx.get(f"{server.url}/livez").status_code == 200
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["lineage"] == {"parent": "nobody"}
        engine.may_start.set()
        wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 200)
        assert server.metric("st_rejections_total", reason="loading") == 1


def test_a_dead_engine_is_not_ready(clip: Path) -> None:
    engine = ScriptedTranslator("Hallo")
    with running(settings_for_tests(), engine) as server:
        engine.alive = False
        for refusal in (httpx.get(f"{server.url}/readyz"), httpx.post(server.url + PATH, **form(clip))):
            assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "failed")


def test_an_upload_that_never_comes_is_a_504() -> None:
    engine = ScriptedTranslator("Hallo")
    engine.may_speak.clear()
    with running(settings_for_tests(timeout_s=0.5), engine) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head(server, "Content-Length: 5000"))
            assert answer(connection).startswith("HTTP/1.1 504")
        wait_until(lambda: ended(server, "timeout") == 1)


def test_a_text_that_never_comes_is_a_504(clip: Path) -> None:
    engine = ScriptedTranslator("Hallo")
    engine.may_speak.clear()
    with running(settings_for_tests(timeout_s=0.5), engine) as server:
        response = httpx.post(server.url + PATH, **form(clip, model="scripted"))
        assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
        wait_until(lambda: ended(server, "timeout") == 1 and engine.n_running == 0)


def test_many_at_once_are_all_served(server: Server, clips: list[Path]) -> None:
    texts: list[str] = []

    def post(clip: Path) -> None:
        response = httpx.post(server.url + PATH, timeout=PATIENCE_S, **form(clip, model="pocket"))
        texts.append(response.json()["text"])

    threads = [threading.Thread(target=post, args=(clip,)) for clip in clips * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(texts) == len(threads)
    assert len(set(texts)) <= len(clips), "the same clip gives the same text, whoever shares its batch"
