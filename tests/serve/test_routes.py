"""The API as its clients see it: real sockets, the pocket model and curl."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent

from compress.checkpoint import POCKET
from serve.errors import EngineFailed
from serve.form import TranslationForm
from tests.serve.language import assert_german, assert_translations
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, form, running, settings_for_tests, wait_until

PATH = "/v1/audio/translations"


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        yield client


def events(body: str) -> list[dict[str, Any]]:
    """The events of a stream, whose last line is `[DONE]`."""
    lines = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def error(response: httpx.Response) -> dict[str, Any]:
    """The error of a response in OpenAI's shape."""
    assert response.headers["x-request-id"]
    content = response.json()
    assert list(content) == ["error"]
    assert set(content["error"]) == {"message", "type", "param", "code"}
    return dict(content["error"])


def test_translates_into_the_language_asked_for(http: httpx.Client, clip: Path) -> None:
    german, chinese = (
        http.post(PATH, **form(clip, model="pocket", to_language=code)).raise_for_status().json()
        for code in ("de", "zh")
    )
    assert_translations(german["text"], chinese["text"])
    usage, timings = german["usage"], german["timings"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert timings["audio_s"] > 1
    assert timings["time_to_first_text_s"] <= timings["total_s"]
    assert timings["real_time_factor"] == pytest.approx(timings["total_s"] / timings["audio_s"], rel=0.01)


def test_curl_works(server: Server, clip: Path) -> None:
    command = ["curl", "-sS", "-F", f"file=@{clip}", "-F", "model=pocket", "-F", "to_language=de"]
    plain = subprocess.run([*command, f"{server.url}{PATH}"], check=True, capture_output=True, text=True)
    text = json.loads(plain.stdout)["text"]
    assert_german(text)
    streamed = subprocess.run(
        [*command, "-N", "-F", "stream=true", f"{server.url}{PATH}"], check=True, capture_output=True, text=True
    )
    assert events(streamed.stdout)[-1]["text"] == text


@pytest.mark.parametrize("code", ["de", "zh"])
def test_a_stream_satisfies_both_parsers(http: httpx.Client, clip: Path, code: str) -> None:
    response = http.post(PATH, **form(clip, model="pocket", to_language=code, stream="true"))
    assert response.headers["content-type"].startswith("text/event-stream")
    *deltas, done = events(response.text)
    for delta in deltas:
        piece = TranscriptionTextDeltaEvent.model_validate(delta).delta
        assert delta["object"] == "translation.chunk"
        assert delta["choices"] == [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]
        assert "\ufffd" not in piece
    assert TranscriptionTextDoneEvent.model_validate(done).text == "".join(delta["delta"] for delta in deltas)
    assert "choices" not in done, "a chat parser reads usage only where there are no choices"
    assert done["usage"]["completion_tokens"] == done["usage"]["output_tokens"] > 0
    plain = http.post(PATH, **form(clip, model="pocket", to_language=code)).json()
    assert done["text"] == plain["text"]


def test_text_format_is_plain_text(http: httpx.Client, clip: Path) -> None:
    response = http.post(PATH, **form(clip, model="pocket", response_format="text"))
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert_german(response.text)


def test_what_a_load_generator_sends_is_accepted(http: httpx.Client, clip: Path) -> None:
    fields = {
        "temperature": "0.0",
        "max_completion_tokens": "4",
        "stream": "True",
        "language": "en",
        "stream_include_usage": "True",
        "stream_continuous_usage_stats": "True",
    }
    response = http.post(PATH, **form(clip, model="pocket", **fields))
    assert events(response.text)[-1]["usage"]["completion_tokens"] <= 4


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"to_language": "fr"}, 400, "to_language", "supported: de, zh"),
        ({"response_format": "xml"}, 400, "response_format", "'json', 'text', 'verbose_json', 'srt' or 'vtt'"),
        ({"response_format": "text", "stream": "true"}, 400, "response_format", "a stream is always json"),
        ({"response_format": "srt", "stream": "true"}, 400, "response_format", "a stream is always json"),
        ({"response_format": "vtt", "stream": "true"}, 400, "response_format", "a stream is always json"),
        ({"response_format": "verbose_json", "stream": "true"}, 400, "response_format", "a stream is always json"),
        ({"model": "whisper-1"}, 404, "model", "loaded: pocket"),
        ({"temperature": "0.7"}, 400, "temperature", "only 0"),
        ({"prompt": "Be formal."}, 400, "prompt", "leave it out"),
        ({"language": "de"}, 400, "language", "'en'"),
        ({"stream": "perhaps"}, 400, "stream", "boolean"),
        ({"to_langauge": "de"}, 400, "to_langauge", "known: file, model, to_language"),
    ],
)
def test_fields_that_cannot_be_served(
    http: httpx.Client, clip: Path, fields: dict[str, str], status: int, param: str, words: str
) -> None:
    response = http.post(PATH, **form(clip, **{"model": "pocket", **fields}))
    assert response.status_code == status
    problem = error(response)
    assert problem["param"] == param
    assert words in problem["message"]


def test_audio_that_cannot_be_used(http: httpx.Client, tmp_path: Path, junk: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    corrupt = tmp_path / "corrupt.flac"
    corrupt.write_bytes(b"fLaC" + bytes(1000))
    for file, status, code in (
        (empty, 400, "empty_audio"),
        (junk, 415, "unsupported_audio"),
        (corrupt, 400, "corrupt_audio"),
    ):
        response = http.post(PATH, **form(file, model="pocket"))
        assert (response.status_code, error(response)["code"]) == (status, code)
        assert error(response)["param"] == "file"


def test_forms_without_audio(http: httpx.Client, clip: Path) -> None:
    missing = http.post(PATH, data={"model": "pocket"}, files={})
    assert missing.status_code == 415, "not a multipart form"
    assert "multipart/form-data" in error(missing)["message"]
    for parts in ({"model": (None, "pocket")}, {"model": (None, "pocket"), "file": (None, "text")}):
        response = http.post(PATH, files=parts)
        assert (response.status_code, error(response)["param"]) == (400, "file")
    astray = http.post(PATH, files={"audio": clip.read_bytes()}, data={"model": "pocket"})
    assert (astray.status_code, error(astray)["param"]) == (400, "audio")
    nameless = http.post(PATH, files={"file": clip.read_bytes()})
    assert (nameless.status_code, error(nameless)["param"]) == (400, "model")


def test_models_tell_their_lineage(http: httpx.Client) -> None:
    content = http.get("/v1/models").json()
    (card,) = content["data"]
    assert content["object"] == "list"
    assert (card["id"], card["object"], card["languages"]) == ("pocket", "model", ["de", "zh"])
    assert card["bytes"] == sum(file.stat().st_size for file in POCKET.glob("*.safetensors"))
    assert card["lineage"] == json.loads((POCKET / "lineage.json").read_text(encoding="utf-8"))


def test_probes(http: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/health"):
        assert http.get(path).status_code == 200


def test_unknown_paths_and_methods_answer_in_the_same_shape(http: httpx.Client) -> None:
    wrong_method, nowhere = http.get(PATH), http.post("/v1/audio/speech")
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")
    assert nowhere.status_code == 404
    assert PATH in error(nowhere)["message"]
    assert error(wrong_method)["message"]


def test_request_ids(http: httpx.Client) -> None:
    first, second = (http.get("/livez").headers["x-request-id"] for _ in range(2))
    assert first != second
    assert http.get("/livez", headers={"X-Request-Id": "trace-7"}).headers["x-request-id"] == "trace-7"
    forged = http.get("/livez", headers={"X-Request-Id": "a b<script>"}).headers["x-request-id"]
    assert "script" not in forged


def test_the_schema_describes_the_form(http: httpx.Client) -> None:
    body = http.get("/openapi.json").json()["paths"][PATH]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert set(body["schema"]["properties"]) == {"file", *TranslationForm.model_fields}


def test_metrics_count_requests_audio_and_times(server: Server, http: httpx.Client, clip: Path, junk: Path) -> None:
    labels = {"endpoint": PATH, "target_language": "zh", "model": "pocket"}
    names = ("st_audio_input_seconds_total", "st_request_duration_seconds_count", "st_time_to_first_text_seconds_count")
    ok, bad = (server.metric("st_requests_total", outcome=outcome, **labels) for outcome in ("ok", "client_error"))
    before = [server.metric(name) for name in names]
    audio_s = http.post(PATH, **form(clip, model="pocket", to_language="zh")).json()["timings"]["audio_s"]
    http.post(PATH, **form(junk, model="pocket", to_language="zh"))
    # the count follows the answer's last byte
    wait_until(lambda: server.metric("st_requests_total", outcome="client_error", **labels) == bad + 1)
    assert server.metric("st_requests_total", outcome="ok", **labels) == ok + 1
    after = [server.metric(name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == pytest.approx([audio_s, 1, 1], abs=0.01)
    assert server.metric("st_inflight_requests") == 0
    assert server.metric("st_build_info") == 1


def test_labels_are_bounded(server: Server, http: httpx.Client, clip: Path) -> None:
    http.post(PATH, **form(clip, model="made-up-7f3a", to_language="de"))
    http.post(PATH, **form(clip, model="pocket", to_language="made-up-7f3a"))
    text = http.get("/metrics").text
    assert "made-up" not in text
    assert 'model="other"' in text


def test_an_engine_that_fails_before_the_headers_is_a_500(clip: Path) -> None:
    with running(settings_for_tests(), ScriptedTranslator(EngineFailed("the engine failed"))) as server:
        response = httpx.post(server.url + PATH, **form(clip, model="scripted"))
        assert (response.status_code, error(response)["code"]) == (500, "engine_failed")


def test_an_engine_that_fails_after_the_headers_is_an_error_event(clip: Path) -> None:
    with running(settings_for_tests(), ScriptedTranslator("Guten ", EngineFailed("the engine failed"))) as server:
        response = httpx.post(server.url + PATH, **form(clip, model="scripted", stream="true"))
        delta, trouble = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]
        assert delta["delta"] == "Guten "
        assert (trouble["type"], trouble["error"]["code"]) == ("error", "engine_failed")
        wait_until(lambda: server.metric("st_requests_total", outcome="error") == 1)


def test_a_mistake_of_ours_tells_nothing_of_its_cause(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(settings_for_tests(), ScriptedTranslator(ZeroDivisionError("secret"))) as server:
        response = httpx.post(server.url + PATH, **form(clip, model="scripted"))
        assert (response.status_code, error(response)["code"]) == (500, "internal_error")
        assert "secret" not in response.text
        assert response.headers["x-request-id"] in caplog.text
        wait_until(lambda: server.metric("st_requests_total", outcome="error") == 1)


def test_logs_hold_no_text(server: Server, http: httpx.Client, clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="serve")
    text = http.post(PATH, **form(clip, model="pocket")).json()["text"]
    wait_until(lambda: " ok: pocket to de, " in caplog.text)
    assert text not in caplog.text
    assert clip.name not in caplog.text
