"""Clients that leave at any moment, and what the server says about those who stay."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

import httpx
import numpy as np
import psutil
import pytest
import soundfile

from compress.audio import SAMPLE_RATE
from compress.checkpoint import Checkpoint
from serve.engines.transformers_engine import TransformersEngine
from tests.serve.processes import started
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, form, running, settings_for_tests, wait_until

PATH = "/v1/audio/translations"
CANARY = "kanarienvogel"
CLIENTS = 40


@pytest.fixture(scope="module")
def busy(endless: Checkpoint) -> Iterator[Server]:
    """A server whose model never ends a text."""
    engine = TransformersEngine([endless], device="cpu", max_batch=4, max_new_tokens=1500)
    with running(settings_for_tests(), engine) as server:
        yield server


def test_clients_that_leave_at_any_moment_leave_nothing_running(busy: Server, clip: Path) -> None:
    draw = random.Random(0)
    whole = httpx.Request("POST", busy.url + PATH, **form(clip, model="endless", stream="true"))
    body = whole.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in whole.headers.items())
    request = f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + body

    def visit(n_bytes: int, stay_s: float, reset: bool) -> None:
        with socket.create_connection(("127.0.0.1", busy.port)) as connection:
            if reset:  # the connection is cut, not closed
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.sendall(request[:n_bytes])
            time.sleep(stay_s)

    def visit_all() -> None:
        visits = [
            (draw.choice([draw.randrange(len(request)), len(request)]), draw.uniform(0, 2), draw.random() < 0.5)
            for _ in range(CLIENTS)
        ]
        clients = [threading.Thread(target=visit, args=each) for each in visits]
        for client in clients:
            client.start()
        for client in clients:
            client.join(PATIENCE_S)
        wait_until(lambda: busy.engine.n_running == 0 and busy.metric("st_inflight_requests") == 0)

    visit_all()
    files, threads = psutil.Process().num_fds(), threading.active_count()
    visit_all()
    wait_until(lambda: psutil.Process().num_fds() <= files and threading.active_count() <= threads)
    assert busy.metric("st_requests_total", outcome="error") == 0
    assert busy.metric("st_requests_total", outcome="cancelled") > CLIENTS / 4
    fields = {"model": "endless", "max_completion_tokens": "2"}
    assert httpx.post(busy.url + PATH, timeout=PATIENCE_S, **form(clip, **fields)).status_code == 200


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An hour of silence in less than 200 kB."""
    path = tmp_path_factory.mktemp("hour") / "hour.flac"
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, format="FLAC") as file:
        for _ in range(60):
            file.write(np.zeros(60 * SAMPLE_RATE, np.int16))
    assert path.stat().st_size < 200_000
    return path


def test_an_hour_of_silence_is_heard_without_being_held(hour: Path) -> None:
    engine = ScriptedTranslator("Unfug")
    with running(settings_for_tests(), engine) as server:
        before = psutil.Process().memory_info().rss
        response = httpx.post(server.url + PATH, timeout=PATIENCE_S, **form(hour, model="scripted"))
        assert (response.status_code, response.json()["text"]) == (200, "")
        assert response.json()["timings"]["audio_s"] == 3600
        assert psutil.Process().memory_info().rss - before < 100e6, "its samples alone would be 230 MB"


def test_more_than_is_allowed_is_refused_at_once(hour: Path) -> None:
    with running(settings_for_tests(max_audio_s=600), ScriptedTranslator("Unfug")) as server:
        started_at = time.monotonic()
        response = httpx.post(server.url + PATH, timeout=PATIENCE_S, **form(hour, model="scripted"))
        assert (response.status_code, response.json()["error"]["code"]) == (400, "audio_too_long")
        assert time.monotonic() - started_at < 5


def test_an_upload_lies_in_no_file_that_has_a_name() -> None:
    whole = httpx.Request("POST", "http://x", files={"file": bytes(5_000_000)}, data={"model": "scripted"})
    body = whole.read()

    def opened() -> list[str]:
        links = []
        for handle in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                links.append(str(handle.readlink()))
        return [link for link in links if link.startswith(gettempdir())]

    with running(settings_for_tests(), ScriptedTranslator("Hallo")) as server:
        before = opened()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = "".join(f"{name}: {value}\r\n" for name, value in whole.headers.items())
            connection.sendall(f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + body[:-10])
            wait_until(lambda: len(opened()) > len(before))
            assert all(link.endswith(" (deleted)") for link in opened() if link not in before)
        wait_until(lambda: len(opened()) == len(before))


def test_logs_tell_of_every_request_but_neither_audio_nor_text(clip: Path, junk: Path) -> None:
    texts: list[str] = []
    requests: list[str] = []
    with started("--no-page", "--log-format", "json") as (process, url), httpx.Client(timeout=PATIENCE_S) as http:

        def post(file: Path, **fields: str) -> httpx.Response:
            named = {"file": (f"{CANARY}.wav", file.read_bytes())}
            response = http.post(url + PATH, files=named, data={"model": "pocket", **fields})
            requests.append(response.headers["x-request-id"])
            return response

        texts = [post(clip, to_language=code).json()["text"] for code in ("de", "zh")]
        post(clip, stream="true")
        post(junk)
        for field in ("model", "to_language", "prompt", "response_format", CANARY):
            assert post(clip, **{field: CANARY}).status_code in (400, 404)
        http.get(f"{url}/v1/{CANARY}?{CANARY}={CANARY}", headers={"X-Request-Id": f"{CANARY}<>", "X-Other": CANARY})
        process.terminate()
        assert process.stdout is not None
        output = process.stdout.read()
    assert all(texts)
    for words in (CANARY, *texts, "Traceback"):
        assert words not in output
    lines = [json.loads(line) for line in output.splitlines()]
    ended = {line["request_id"]: line for line in lines if "outcome" in line}
    assert ended.keys() == set(requests)
    assert [ended[name]["outcome"] for name in requests[:4]] == ["ok", "ok", "ok", "client_error"]
    assert ended[requests[1]]["to_language"] == "zh"
    assert ended[requests[1]].keys() >= {"audio_s", "decode_s", "queue_s", "translate_s", "first_text_s", "total_s"}
