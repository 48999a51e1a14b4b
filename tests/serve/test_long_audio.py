"""Recordings longer than the encoder's window, and those in which nothing is said."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from compress.audio import SAMPLE_RATE, Samples, decode
from serve.engine import Request, Result, Timings
from serve.errors import EngineFailed
from tests.serve.language import assert_chinese, assert_german
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, running, settings_for_tests, wait_until
from tests.serve.speech import sentences, silence, talk, wav

PATH = "/v1/audio/translations"
N_SENTENCES = 12
PAUSE_S = 0.8


class Listener(ScriptedTranslator):
    """Keeps what it is asked to translate, and takes its time."""

    def __init__(self, *script: str | Exception, pace_s: float = 0.0) -> None:
        super().__init__(*script)
        self.asked: list[Samples] = []
        self._pace_s = pace_s

    async def translate(self, request: Request) -> AsyncGenerator[str | Result, None]:
        number = len(self.asked)
        self.asked.append(request.samples)
        await asyncio.sleep(self._pace_s)
        yield f"Satz {number}."
        yield Result(f"Satz {number}.", 10, 3, Timings(0.1, None, 0.2))


@pytest.fixture(scope="module")
def said(clips: list[Path]) -> list[Samples]:
    return sentences(clips)


@pytest.fixture(scope="module")
def recording(said: list[Samples]) -> tuple[bytes, list[tuple[int, int]]]:
    """A dozen sentences, and where each of them is, in samples."""
    samples, bounds = talk(said * (N_SENTENCES // len(said)), PAUSE_S)
    return wav(samples), bounds


def post(server: Server, data: bytes, **fields: str) -> httpx.Response:
    files = {"file": ("talk.wav", data)}
    model = server.engine.models[0].name
    return httpx.post(server.url + PATH, files=files, data={"model": model, **fields}, timeout=PATIENCE_S)


def done(response: httpx.Response) -> dict[str, Any]:
    """The last event but `[DONE]` of a stream."""
    return dict(json.loads(response.text.split("\n\n")[-3].removeprefix("data: ")))


@pytest.mark.parametrize("code", ["de", "zh"])
def test_a_long_recording_is_translated_sentence_by_sentence(
    server: Server, recording: tuple[bytes, list[tuple[int, int]]], code: str
) -> None:
    data, bounds = recording
    verbose = post(server, data, to_language=code, response_format="verbose_json").raise_for_status().json()
    segments = verbose["segments"]
    assert [segment["id"] for segment in segments] == list(range(N_SENTENCES))
    for segment, (start, end) in zip(segments, bounds, strict=True):
        assert segment["start"] == pytest.approx(start / SAMPLE_RATE, abs=0.4)
        assert segment["end"] == pytest.approx(end / SAMPLE_RATE, abs=0.4)
        (assert_german if code == "de" else assert_chinese)(segment["text"])
    joiner = {"de": " ", "zh": ""}[code]
    assert verbose["text"] == joiner.join(segment["text"] for segment in segments)
    assert verbose["language"] == {"de": "german", "zh": "chinese"}[code]
    assert verbose["duration"] == pytest.approx(bounds[-1][1] / SAMPLE_RATE + PAUSE_S, abs=0.01)
    assert verbose["usage"]["output_tokens"] > 2 * N_SENTENCES
    streamed = done(post(server, data, to_language=code, stream="true"))
    assert {name: streamed[name] for name in ("text", "segments", "usage")} == {
        name: verbose[name] for name in ("text", "segments", "usage")
    }


def test_subtitles_have_the_bounds_of_the_speech(recording: tuple[bytes, list[tuple[int, int]]]) -> None:
    data, bounds = recording
    with running(settings_for_tests(), Listener()) as server:
        srt, vtt = (post(server, data, response_format=kind) for kind in ("srt", "vtt"))
        plain = post(server, data, response_format="text")
    assert srt.headers["content-type"] == "application/x-subrip; charset=utf-8"
    assert vtt.headers["content-type"] == "text/vtt; charset=utf-8"
    assert vtt.text.startswith("WEBVTT\n\n")
    for text in (srt.text, vtt.text):
        times = re.findall(r"(\d\d):(\d\d):(\d\d)[.,](\d{3})", text)
        seconds = np.array(times, float) @ [3600, 60, 1, 0.001]
        np.testing.assert_allclose(seconds.reshape(-1, 2), np.array(bounds) / SAMPLE_RATE, atol=0.4)
    assert plain.text.count("Satz") == N_SENTENCES


def test_usage_and_times_are_those_of_all_stretches(recording: tuple[bytes, list[tuple[int, int]]]) -> None:
    with running(settings_for_tests(), Listener()) as server:
        answer = post(server, recording[0]).json()
        assert server.metric("st_decode_seconds_count") == N_SENTENCES
        assert server.metric("st_request_duration_seconds_count") == 1
        assert server.metric("st_audio_input_seconds_total") == pytest.approx(answer["timings"]["audio_s"], abs=0.01)
    assert answer["usage"]["input_tokens"] == 10 * N_SENTENCES
    assert answer["usage"]["completion_tokens"] == 3 * N_SENTENCES
    assert answer["timings"]["queue_wait_s"] == pytest.approx(0.1 * N_SENTENCES)
    assert answer["timings"]["decode_s"] == pytest.approx(0.2 * N_SENTENCES)


def test_a_clip_with_one_sentence_reaches_the_engine_untouched(clip: Path) -> None:
    engine = Listener()
    with running(settings_for_tests(), engine) as server:
        post(server, clip.read_bytes())
    (samples,) = engine.asked
    np.testing.assert_array_equal(samples, decode(clip))


def test_at_most_half_a_batch_is_one_recordings(recording: tuple[bytes, list[tuple[int, int]]]) -> None:
    engine = ScriptedTranslator("Hallo")
    engine.may_speak.clear()
    fields = {"model": "scripted", "stream": "true"}
    with running(settings_for_tests(max_batch=6), engine) as server:
        with httpx.stream(
            "POST", server.url + PATH, files={"file": recording[0]}, data=fields, timeout=PATIENCE_S
        ) as response:
            assert response.status_code == 200
            wait_until(lambda: engine.n_running == 3)
            time.sleep(0.5)
            assert engine.n_running == 3
        wait_until(lambda: engine.n_running == 0)


def test_silence_is_an_empty_text_and_the_engine_is_not_asked(long_clip: Path) -> None:
    data = wav(silence(1))
    with running(settings_for_tests(), ScriptedTranslator(EngineFailed("asked"))) as server:
        answer = post(server, data).raise_for_status().json()
        assert answer["text"] == ""
        assert answer["usage"]["total_tokens"] == 0
        assert answer["timings"]["audio_s"] == 1
        assert answer["timings"]["time_to_first_text_s"] is None
        assert post(server, data, response_format="verbose_json").json()["segments"] == []
        assert post(server, data, response_format="text").text == ""
        assert post(server, data, response_format="srt").text == ""
        assert post(server, data, response_format="vtt").text == "WEBVTT\n\n"
        for recording in (data, long_clip.read_bytes()):
            stream = post(server, recording, stream="true")
            assert stream.text.count("data: ") == 2, "no piece of text"
            assert done(stream)["text"] == ""


def test_longer_than_the_server_takes_is_refused(recording: tuple[bytes, list[tuple[int, int]]]) -> None:
    with running(settings_for_tests(max_audio_s=31.0), Listener()) as server:
        refusal = post(server, recording[0])
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (400, "audio_too_long")
        assert "limit of 31 s" in refusal.json()["error"]["message"]
        *_, delta, trouble, end = post(server, recording[0], stream="true").text.split("\n\n")
        assert "transcript.text.delta" in delta, "a wav does not tell its length, so that text had begun"
        assert "audio_too_long" in trouble
        assert not end


def test_the_time_allowed_counts_from_the_last_text(said: list[Samples]) -> None:
    data = wav(talk(said, 0.8)[0])
    with running(settings_for_tests(max_batch=1, timeout_s=6.0), Listener(pace_s=2.0)) as server:
        answer = post(server, data).raise_for_status().json()
        assert answer["timings"]["total_s"] > 6.0
    with running(settings_for_tests(max_batch=1, timeout_s=6.0, max_request_s=6.0), Listener(pace_s=2.0)) as server:
        assert post(server, data).status_code == 504, "but there is an end to all"
    with running(settings_for_tests(max_batch=1, timeout_s=2.0), Listener(pace_s=60.0)) as server:
        assert post(server, data).status_code == 504


def test_a_client_that_leaves_ends_all_of_it(said: list[Samples]) -> None:
    data = wav(talk(said * 30, 1)[0])
    assert len(data) > 2_000_000, "too much to be kept in memory, so it has a file"
    process = psutil.Process()
    engine = ScriptedTranslator("Hallo")
    with running(settings_for_tests(), engine) as server:
        post(server, wav(said[0]))
        files = process.num_fds()
        engine.may_speak.clear()
        fields = {"model": "scripted", "stream": "true"}
        with httpx.stream("POST", server.url + PATH, files={"file": data}, data=fields, timeout=PATIENCE_S) as response:
            assert response.status_code == 200
            wait_until(lambda: engine.n_running > 1)
        wait_until(lambda: engine.n_running == 0 and server.metric("st_inflight_requests") == 0)
        wait_until(lambda: process.num_fds() <= files)
        assert server.metric("st_requests_total", outcome="cancelled") == 1
