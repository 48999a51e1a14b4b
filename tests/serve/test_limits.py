"""What the server refuses: too large, too late, or while it cannot translate."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, form, running, settings_for_tests, wait_until
from tests.serve.sockets import PATH, answer, head

MAX_BYTES = 1_000_000


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    """A server with a small bound for uploads."""
    with running(settings_for_tests(max_upload_bytes=MAX_BYTES), ScriptedTranslator("Hallo")) as server:
        yield server


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
    wait_until(lambda: small.metric("st_inflight_requests") == 0)


@pytest.mark.parametrize(
    ("header", "status"), [(f"Content-Length: {MAX_BYTES + 1}", "413"), ("Transfer-Encoding: chunked", "411")]
)
def test_no_route_takes_a_body_without_bound(small: Server, header: str, status: str) -> None:
    with socket.create_connection(("127.0.0.1", small.port)) as connection:
        connection.sendall(f"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode())
        assert answer(connection).startswith(f"HTTP/1.1 {status}")


def test_clients_that_send_too_much_read_the_reason(small: Server) -> None:
    response = httpx.post(small.url + PATH, files={"file": bytes(3 * MAX_BYTES)}, data={"model": "scripted"})
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


def test_a_dead_engine_is_neither_ready_nor_live(clip: Path) -> None:
    engine = ScriptedTranslator("Hallo")
    with running(settings_for_tests(), engine) as server, httpx.Client(base_url=server.url) as http:
        engine.alive = False
        answers = [http.get(path) for path in ("/readyz", "/health", "/livez")]
        for refusal in (*answers, http.post(PATH, **form(clip))):
            assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "failed")


def test_an_upload_that_never_comes_is_a_504() -> None:
    engine = ScriptedTranslator("Hallo")
    engine.may_speak.clear()
    with running(settings_for_tests(timeout_s=0.5), engine) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head(server, "Content-Length: 5000"))
            assert answer(connection).startswith("HTTP/1.1 504")
        wait_until(lambda: server.metric("st_requests_total", outcome="timeout") == 1)


def test_an_upload_that_stalls_is_a_408() -> None:
    # twice as long, and the connection is cut without a word: the machine may be busy
    with running(settings_for_tests(idle_s=2), ScriptedTranslator("Hallo")) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head(server, "Content-Length: 5000") + b"--x\r\n")
            refusal = answer(connection)
        assert refusal.startswith("HTTP/1.1 408")
        wait_until(
            lambda: (
                server.metric("st_requests_total", outcome="timeout") == 1
                and server.metric("st_inflight_requests") == 0
            )
        )


def test_an_upload_that_comes_slowly_but_surely_is_taken(clip: Path) -> None:
    whole = httpx.Request("POST", "http://x", **form(clip, model="scripted"))
    content, kind = whole.read(), whole.headers["content-type"]
    parts = [content[i : i + 8000] for i in range(0, len(content), 8000)]

    def slowly() -> Iterator[bytes]:
        for part in parts:
            time.sleep(1.2 / len(parts))
            yield part

    with running(settings_for_tests(idle_s=1), ScriptedTranslator("Hallo")) as server:
        response = httpx.post(server.url + PATH, content=slowly(), headers={"Content-Type": kind}, timeout=PATIENCE_S)
        assert response.status_code == 200


def test_a_text_that_never_comes_is_a_504(clip: Path) -> None:
    engine = ScriptedTranslator("Hallo")
    engine.may_speak.clear()
    with running(settings_for_tests(timeout_s=0.5), engine) as server:
        response = httpx.post(server.url + PATH, **form(clip, model="scripted"))
        assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
        wait_until(lambda: server.metric("st_requests_total", outcome="timeout") == 1 and engine.n_running == 0)


@pytest.mark.parametrize(("max_request_s", "end"), [(PATIENCE_S, "[DONE]"), (1.5, '"code": "timeout"')])
def test_a_text_that_keeps_coming_has_longer_but_not_for_ever(clip: Path, max_request_s: float, end: str) -> None:
    engine = ScriptedTranslator(*["viel "] * 20)
    engine.pause_s = 0.2
    with running(settings_for_tests(timeout_s=1.4, max_request_s=max_request_s), engine) as server:
        stream = form(clip, model="scripted", stream="true")
        assert end in httpx.post(server.url + PATH, timeout=PATIENCE_S, **stream).text
