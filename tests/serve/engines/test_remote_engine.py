"""A front before other servers: what its clients see is what they would see of those."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from compress.audio import SAMPLE_RATE, decode
from compress.checkpoint import Checkpoint
from serve.engine import Request, Result
from serve.engines.remote_engine import RemoteEngine, wav
from serve.engines.transformers_engine import TransformersEngine
from serve.errors import EngineFailed, SettingsError
from tests.serve.language import assert_german
from tests.serve.live.speaker import speaking, spoken
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, form, running, settings_for_tests, wait_until
from tests.serve.speech import sentences, talk
from tests.serve.speech import wav as rounded

PATH = "/v1/audio/translations"
KEY = "sk-kompakt-0123456789"


@pytest.fixture(scope="module")
def front(server: Server) -> Iterator[Server]:
    """A front before the server of the pocket model."""
    with running(settings_for_tests(), RemoteEngine([server.url], "", PATIENCE_S)) as front:
        yield front


@pytest.fixture(scope="module")
def recording(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four sentences with pauses between them."""
    path = tmp_path_factory.mktemp("recording") / "talk.wav"
    path.write_bytes(rounded(talk(sentences(clips), 0.9)[0]))
    return path


def post(server: Server, file: Path, **fields: str) -> httpx.Response:
    return httpx.post(server.url + PATH, timeout=PATIENCE_S, **form(file, **{"model": "pocket", **fields}))


# --- the same as without it -------------------------------------------------------------------------------------


def test_a_long_recording_has_the_same_text_and_parts(front: Server, server: Server, recording: Path) -> None:
    fields = {"response_format": "verbose_json", "to_language": "zh"}
    theirs, ours = (post(each, recording, **fields).json() for each in (server, front))
    assert len(ours["segments"]) > 1
    assert {**ours, "timings": None} == {**theirs, "timings": None}
    assert ours["usage"]["input_tokens"] > ours["usage"]["output_tokens"] > 4
    assert ours["timings"]["audio_s"] == theirs["timings"]["audio_s"]
    assert ours["timings"]["decode_s"] > 0
    assert 0 < ours["timings"]["time_to_first_text_s"] <= ours["timings"]["total_s"]


@pytest.mark.parametrize("response_format", ["text", "srt", "vtt"])
def test_other_formats_are_the_same_too(front: Server, server: Server, clip: Path, response_format: str) -> None:
    theirs, ours = (post(each, clip, response_format=response_format) for each in (server, front))
    assert ours.text == theirs.text
    assert ours.headers["content-type"] == theirs.headers["content-type"]


def test_a_stream_is_passed_on_as_it_comes(front: Server, server: Server, clip: Path) -> None:
    body = post(front, clip, stream="true").text
    *deltas, done = [json.loads(line.removeprefix("data: ")) for line in body.split("\n\n") if line[6:7] == "{"]
    assert body.endswith("data: [DONE]\n\n")
    assert len(deltas) > 1
    assert "".join(delta["delta"] for delta in deltas) == done["text"] == post(server, clip).json()["text"]


def test_models_are_described_as_by_the_server_behind(front: Server, server: Server) -> None:
    theirs, ours = (httpx.get(f"{each.url}/v1/models").json() for each in (server, front))
    assert ours == theirs


def test_what_a_server_cannot_do_is_refused_before_it_is_asked(
    front: Server, clip: Path, junk: Path, long_clip: Path
) -> None:
    asked = front.metric("st_remote_requests_total")
    for fields, status, words in (
        ({"model": "whisper-1"}, 404, "loaded: pocket"),
        ({"to_language": "fr"}, 400, "supported: de, zh"),
        ({"response_format": "xml"}, 400, "'json', 'text'"),
    ):
        answer = post(front, clip, **fields)
        assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True)
    assert post(front, junk).status_code == 415
    assert post(front, long_clip).json()["text"] == "", "silence"
    assert front.metric("st_remote_requests_total") == asked


def test_a_model_is_not_asked_for_a_language_that_it_was_not_made_for(clip: Path) -> None:
    engine = ScriptedTranslator("Hallo")
    engine.lineage = {"language": "de"}
    with (
        running(settings_for_tests(), engine) as behind,
        running(settings_for_tests(), RemoteEngine([behind.url], "", PATIENCE_S)) as front,
    ):
        answer = post(front, clip, model="scripted", to_language="zh")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_language")
        assert post(front, clip, model="scripted").json()["text"] == "Hallo"


def test_a_text_may_be_cut(front: Server, clip: Path) -> None:
    assert post(front, clip, max_completion_tokens="2").json()["usage"]["completion_tokens"] <= 2


def test_live_speech_goes_through(front: Server, clip: Path) -> None:
    with speaking(front.url) as speaker:
        speaker.translate_into("de")
        speaker.speak(spoken(clip))
        speaker.close()
    assert_german(speaker.text)


def test_metrics_tell_of_the_servers(front: Server, server: Server, clip: Path) -> None:
    before = front.metric("st_remote_requests_total", server=server.url, outcome="ok")
    post(front, clip)
    assert front.metric("st_remote_requests_total", server=server.url, outcome="ok") == before + 1
    assert front.metric("st_remote_up", server=server.url) == 1


def test_samples_arrive_as_they_are() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, SAMPLE_RATE).astype(np.float32)
    file = wav(samples)
    assert np.array_equal(decode(file), samples)
    assert struct.unpack("<I", file[4:8])[0] == len(file) - 8


# --- cancelled means cancelled ----------------------------------------------------------------------------------


def test_a_client_that_leaves_frees_the_server_behind(clip: Path, endless: Checkpoint) -> None:
    engine = TransformersEngine([endless], device="cpu", max_batch=2, max_new_tokens=1500)
    with (
        running(settings_for_tests(max_batch=2), engine) as behind,
        running(settings_for_tests(), RemoteEngine([behind.url], "", PATIENCE_S)) as front,
    ):
        stream = form(clip, model="endless", stream="true")
        with httpx.stream("POST", front.url + PATH, timeout=PATIENCE_S, **stream) as response:
            lines = response.iter_lines()  # kept, because a stream is closed with its iterator
            assert next(lines).startswith("data: ")
            assert (engine.n_running, front.engine.n_running) == (1, 1)
        wait_until(lambda: engine.n_running == 0 and front.engine.n_running == 0)
        wait_until(lambda: behind.metric("st_requests_total", outcome="cancelled") == 1)
        assert behind.metric("st_requests_total") == 1
        assert front.metric("st_remote_requests_total", outcome="cancelled") == 1


def test_a_client_that_leaves_before_any_text_does_too(clip: Path) -> None:
    engine = ScriptedTranslator("Hallo")
    engine.may_speak.clear()
    with (
        running(settings_for_tests(), engine) as behind,
        running(settings_for_tests(), RemoteEngine([behind.url], "", PATIENCE_S)) as front,
    ):
        whole = httpx.Request("POST", front.url + PATH, **form(clip, model="scripted"))
        body = whole.read()
        head = "".join(f"{name}: {value}\r\n" for name, value in whole.headers.items())
        with socket.create_connection(("127.0.0.1", front.port)) as connection:
            connection.sendall(f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + body)
            wait_until(lambda: engine.n_running == 1)
        wait_until(lambda: engine.n_running == 0 and front.engine.n_running == 0)
        wait_until(lambda: behind.metric("st_requests_total", outcome="cancelled") == 1)
        assert behind.metric("st_requests_total") == 1, "it was not given back again"


def test_a_wrong_guess_is_cancelled_at_the_server_behind(clips: list[Path]) -> None:
    """Two sentences are begun as one clip before they are found to be two."""
    engine = ScriptedTranslator("Hallo")
    engine.may_speak.clear()
    short = rounded(talk(sentences(clips[::2]), 0.9)[0])
    with (
        running(settings_for_tests(), engine) as behind,
        running(settings_for_tests(), RemoteEngine([behind.url], "", PATIENCE_S)) as front,
    ):
        fields = {"model": "scripted", "stream": "true"}
        with httpx.stream("POST", front.url + PATH, files={"file": short}, data=fields, timeout=PATIENCE_S) as response:
            wait_until(lambda: front.metric("st_remote_requests_total", outcome="cancelled") == 1)
            wait_until(lambda: engine.n_running == 2 and behind.metric("st_inflight_requests") == 2)
            engine.may_speak.set()
            done = response.read().decode().split("\n\n")[-3]
        assert json.loads(done.removeprefix("data: "))["text"] == "Hallo Hallo"
        wait_until(lambda: behind.metric("st_inflight_requests") == 0)
        assert behind.metric("st_requests_total", outcome="ok") == 2
        assert front.metric("st_remote_requests_total") == 3


def test_closing_the_engine_ends_what_runs(loop: asyncio.Runner, clip: Path) -> None:
    behind = ScriptedTranslator("Hallo")
    behind.may_speak.clear()

    async def scenario(server: Server) -> None:
        async with started(RemoteEngine([server.url], "", PATIENCE_S)) as engine:
            task = asyncio.create_task(translated(engine, clip))
            while not behind.n_running:  # noqa: ASYNC110 - it is in another thread
                await asyncio.sleep(0.01)
            await engine.close()
            with pytest.raises(EngineFailed, match="was stopped before the translation was complete"):
                await task
            with pytest.raises(EngineFailed, match="is not running"):
                await translated(engine, clip)

    with running(settings_for_tests(), behind) as server:
        loop.run(scenario(server))
        wait_until(lambda: behind.n_running == 0)


# --- how it starts ----------------------------------------------------------------------------------------------


def test_the_key_is_passed_on(loop: asyncio.Runner, clip: Path) -> None:
    async def scenario(url: str, key: str) -> str:
        async with started(RemoteEngine([url], key, PATIENCE_S)) as engine:
            return (await translated(engine, clip)).text

    with running(settings_for_tests(api_keys=(KEY,)), ScriptedTranslator("Hallo")) as server:
        assert loop.run(scenario(server.url, KEY)) == "Hallo"
        for wrong, words in (("", "asks for a key"), ("sk-wrong", "the key is not valid")):
            with pytest.raises(SettingsError, match=f"does not take the key of SERVE_REMOTE_API_KEY: .*{words}"):
                loop.run(scenario(server.url, wrong))


def test_without_any_server_it_does_not_start(loop: asyncio.Runner) -> None:
    async def scenario() -> None:
        async with started(RemoteEngine(["http://127.0.0.1:9"], "", 0.1)):
            pass

    with pytest.raises(EngineFailed, match=r"no remote server is ready: http://127.0.0.1:9: .* \(ConnectError\)"):
        loop.run(scenario())


def test_it_waits_for_a_server_that_is_loading(clip: Path) -> None:
    slow = ScriptedTranslator("Hallo")
    slow.may_start.clear()
    with running(settings_for_tests(), slow, ready=False) as behind:
        engine = RemoteEngine([behind.url], "", PATIENCE_S)
        with running(settings_for_tests(), engine, ready=False) as front:
            assert httpx.get(f"{front.url}/readyz").json()["error"]["code"] == "loading"
            assert httpx.get(f"{front.url}/v1/models").json()["data"] == []
            slow.may_start.set()
            wait_until(lambda: httpx.get(f"{front.url}/readyz").status_code == 200)
            assert post(front, clip, model="scripted").json()["text"] == "Hallo"


def test_it_can_be_stopped_while_it_waits() -> None:
    with running(settings_for_tests(), RemoteEngine(["http://127.0.0.1:9"], "", 1e6), ready=False) as front:
        assert httpx.get(f"{front.url}/livez").status_code == 200


def test_servers_with_other_models_are_refused(loop: asyncio.Runner) -> None:
    other = ScriptedTranslator("Hallo")
    other.name = "other"

    async def scenario(*servers: Server) -> None:
        async with started(RemoteEngine([server.url for server in servers], "", PATIENCE_S)):
            pass

    with running(settings_for_tests(), ScriptedTranslator("Hallo")) as a, running(settings_for_tests(), other) as b:
        words = f"must offer the same models: {a.url} does not offer other; {b.url} does not offer scripted"
        with pytest.raises(SettingsError, match=words):
            loop.run(scenario(a, b))


@asynccontextmanager
async def started(engine: RemoteEngine) -> AsyncIterator[RemoteEngine]:
    """The engine while it runs."""
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


async def translated(engine: RemoteEngine, clip: Path) -> Result:
    """The result of the scripted model."""
    request = Request("scripted", decode(clip), "de")
    *_, result = [event async for event in engine.translate(request)]
    assert isinstance(result, Result)
    return result
