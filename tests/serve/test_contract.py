"""The official client, and a program that reads the OpenAPI document and tries what it allows and what it does not."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openai.types.audio import TranscriptionStreamEvent, TranslationVerbose
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from serve.errors import EngineFailed
from tests.serve.language import assert_chinese, assert_german
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, running, settings_for_tests, wait_until

# OpenAI calls its own Whisper route deprecated; the method works and is what its users call
pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")

PATH = "/v1/audio/translations"
KEY = "a-key-of-32-characters-or-a-few-more"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def client_of(server: Server, key: str = "unused") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, timeout=PATIENCE_S, max_retries=0)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with client_of(server) as client:
        yield client


def translate(client: openai.OpenAI, file: Path, response_format: Any = "json", **fields: Any) -> Any:
    body = {"to_language": "de", **fields}
    model = body.pop("model", "pocket")
    return client.audio.translations.create(file=file, model=model, response_format=response_format, extra_body=body)


def stream(client: openai.OpenAI, file: Path, model: str) -> openai.Stream[Any]:
    """As the client's own transcriptions stream; its translations know no such argument yet."""
    events: Any = TranscriptionStreamEvent  # a union, which the client takes apart itself
    return client.post(
        "/audio/translations",
        cast_to=events,
        body={"model": model, "to_language": "de", "stream": True},
        files=[("file", file)],
        options={"headers": {"Content-Type": "multipart/form-data"}},
        stream=True,
        stream_cls=openai.Stream[events],
    )


# --- what it understands ----------------------------------------------------------------------------------------


def test_json_and_text(client: openai.OpenAI, clip: Path) -> None:
    german = translate(client, clip)
    assert_german(german.text)
    assert translate(client, clip, "text") == german.text
    assert_chinese(translate(client, clip, to_language="zh").text)


def test_verbose_json_has_openais_fields_and_no_invented_ones(client: openai.OpenAI, clip: Path) -> None:
    verbose = translate(client, clip, "verbose_json")
    assert isinstance(verbose, TranslationVerbose)
    assert verbose.language == "german"
    assert verbose.segments is not None
    (segment,) = verbose.segments
    assert (segment.id, segment.text) == (0, verbose.text)
    assert 0 <= segment.start < segment.end <= verbose.duration
    assert set(segment.to_dict()) == {"id", "start", "end", "text"}
    assert verbose.to_dict()["task"] == "translate"


def test_subtitles_are_strings(client: openai.OpenAI, clip: Path) -> None:
    text = translate(client, clip).text
    srt, vtt = translate(client, clip, "srt"), translate(client, clip, "vtt")
    assert srt.startswith("1\n00:00:00,")
    assert vtt.startswith("WEBVTT\n\n00:00:00.")
    assert srt.rstrip().endswith(text)
    assert vtt.rstrip().endswith(text)


def test_a_stream_is_events_of_its_own_types(client: openai.OpenAI, clip: Path) -> None:
    pieces, whole = [], None
    for event in stream(client, clip, "pocket"):
        if event.type == "transcript.text.delta":
            pieces.append(event.delta)
        elif event.type == "transcript.text.done":
            whole = event.text
            assert event.usage is not None
            assert event.usage.total_tokens == event.usage.input_tokens + event.usage.output_tokens
    assert len(pieces) > 1
    assert whole == "".join(pieces) == translate(client, clip).text


def test_the_list_of_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["pocket"]


# --- errors, as its exceptions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"model": "whisper-1"}, openai.NotFoundError, "model_not_found"),
        ({"to_language": "fr"}, openai.BadRequestError, "invalid_field"),
        ({"response_format": "html"}, openai.BadRequestError, "invalid_field"),
        ({"response_format": "srt", "stream": "true"}, openai.BadRequestError, "invalid_field"),
    ],
)
def test_a_clients_mistake(
    client: openai.OpenAI, clip: Path, fields: dict[str, str], error: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(error) as caught:
        translate(client, clip, **fields)
    assert caught.value.code == code
    assert caught.value.request_id
    assert caught.value.param == next(iter(fields))


def test_junk_and_too_much(client: openai.OpenAI, junk: Path, clip: Path) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        translate(client, junk)
    assert (caught.value.status_code, caught.value.code) == (415, "unsupported_audio")
    with (
        running(settings_for_tests(max_upload_bytes=5000), ScriptedTranslator("Hallo")) as server,
        client_of(server) as other,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        translate(other, clip, model="scripted")
    assert (caught.value.status_code, caught.value.code) == (413, "upload_too_large")


def test_a_wrong_key(clip: Path) -> None:
    with running(settings_for_tests(api_keys=KEY), ScriptedTranslator("Hallo")) as server:
        with client_of(server) as stranger, pytest.raises(openai.AuthenticationError):
            translate(stranger, clip, model="scripted")
        with client_of(server, KEY) as friend:
            assert translate(friend, clip, model="scripted").text == "Hallo"


def test_a_full_server_and_one_that_fails(clip: Path) -> None:
    engine = ScriptedTranslator("Hallo")
    engine.may_speak.clear()
    with (
        running(settings_for_tests(max_requests=1, max_batch=1, max_sessions=1), engine) as server,
        client_of(server) as client,
    ):
        first = threading.Thread(target=translate, args=(client, clip), kwargs={"model": "scripted"})
        first.start()
        wait_until(lambda: engine.n_running == 1)
        with pytest.raises(openai.RateLimitError) as full:
            translate(client, clip, model="scripted")
        assert full.value.response.headers["retry-after-ms"] == "1000"
        engine.may_speak.set()
        first.join(PATIENCE_S)
        engine.script = ("Guten ", EngineFailed("the engine failed"))
        with pytest.raises(openai.InternalServerError):
            translate(client, clip, model="scripted")
        with pytest.raises(openai.APIError, match="the engine failed") as broken:
            list(stream(client, clip, "scripted"))
        assert broken.value.code == "engine_failed"


# --- the OpenAPI document ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document() -> Iterator[OpenApiSchema]:
    """The document of a server whose engine always has a word."""
    with running(settings_for_tests(), ScriptedTranslator("Hallo")) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("speaks", [True, False])
def test_what_the_document_allows_and_what_it_forbids_is_answered_as_it_says(
    document: OpenApiSchema, clip: Path, mode: GenerationMode, speaks: bool
) -> None:
    answers: Counter[int] = Counter()

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=document[PATH]["POST"].as_strategy(mode))
    def answered(case: schemathesis.Case[Any]) -> None:
        body: Any = case.body
        if speaks and isinstance(body, dict):  # bytes that were made up are no speech
            body |= {"file": clip.read_bytes(), "model": "scripted"}
        answers[case.call_and_validate(checks=CHECKS, timeout=PATIENCE_S).status_code] += 1

    answered()
    assert sum(answers.values()) >= 20
    if mode is GenerationMode.POSITIVE:
        assert (200 in answers) == speaks


def test_the_other_routes_answer_as_the_document_says(document: OpenApiSchema) -> None:
    found = [cast("Ok[Any]", result).ok() for result in document.get_all_operations()]
    assert {operation.path for operation in found} >= {PATH, "/v1/models", "/livez", "/readyz", "/health", "/metrics"}
    for operation in found:
        if operation.method == "get":
            assert operation.Case().call_and_validate(checks=CHECKS, timeout=PATIENCE_S).status_code == 200


def test_the_document_knows_every_format(server: Server) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    answers = document["paths"][PATH]["post"]["responses"]
    assert set(answers["200"]["content"]) == {
        "application/json",
        "text/plain",
        "application/x-subrip",
        "text/vtt",
        "text/event-stream",
    }
