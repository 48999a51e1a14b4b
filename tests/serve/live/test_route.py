"""Live sessions as their clients see them: real sockets, the pocket model, the official client."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.realtime import (
    RealtimeErrorEvent,
    RealtimeTranslationOutputTranscriptDeltaEvent,
    RealtimeTranslationSessionClosedEvent,
    RealtimeTranslationSessionCreatedEvent,
    RealtimeTranslationSessionUpdatedEvent,
)
from pydantic import BaseModel
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from serve.live.pcm import encode_pcm
from tests.serve.language import assert_chinese, assert_german
from tests.serve.live.speaker import LIVE, Speaker, speaking, spoken
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, running, settings_for_tests, wait_until

SHAPES: dict[str, type[BaseModel]] = {
    "session.created": RealtimeTranslationSessionCreatedEvent,
    "session.updated": RealtimeTranslationSessionUpdatedEvent,
    "session.output_transcript.delta": RealtimeTranslationOutputTranscriptDeltaEvent,
    "session.closed": RealtimeTranslationSessionClosedEvent,
    "error": RealtimeErrorEvent,
}


def ended(server: Server, outcome: str) -> float:
    return server.metric("st_requests_total", endpoint=LIVE, outcome=outcome)


# the official client opens its socket as websockets 17 would rather not have it
@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
def test_the_official_client_works_unchanged(server: Server, clips: list[Path]) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused")
    audio = encode_pcm(spoken(clips[1]))
    with client, client.realtime.translations.connect(model="pocket") as connection:
        connection.session.update(session={"audio": {"output": {"language": "de"}}})
        connection.session.input_audio_buffer.append(audio=audio)
        connection.session.close()
        kinds, text = [], ""
        for event in connection:
            kinds.append(event.type)
            if event.type == "session.output_transcript.delta":
                text += event.delta
    assert kinds[:2] == ["session.created", "session.updated"]
    assert set(kinds[2:-1]) == {"session.output_transcript.delta"}
    assert kinds[-1] == "session.closed"
    assert_german(text)


@pytest.mark.parametrize("policy", ["segment", "agreement"])
def test_speech_becomes_text_in_the_protocols_shapes(server: Server, clips: list[Path], policy: str) -> None:
    heard_s, n_lags = (server.metric(name) for name in ("st_audio_input_seconds_total", "st_live_lag_seconds_count"))
    before = ended(server, "ok")
    speech = [spoken(clip) for clip in clips[:3]]
    with speaking(server.url, policy=policy) as speaker:
        assert server.metric("st_ws_sessions_active") == 1
        for samples in speech:
            speaker.speak(samples)
        assert speaker.close() == 1000
    for event in speaker.events:
        shape = SHAPES[event["type"]].model_validate(event, strict=True)
        assert not shape.model_extra, "nothing that the protocol does not know"
    assert len({event["event_id"] for event in speaker.events}) == len(speaker.events)
    assert_german(speaker.text)
    assert "  " not in speaker.text
    assert speaker.text.count(". ") >= 1, "segments are joined by a space"
    session = speaker.events[0]["session"]
    assert session["id"].startswith("sess_")
    assert (session["model"], session["audio"]["output"]["language"]) == ("pocket", "de")
    wait_until(lambda: ended(server, "ok") == before + 1)
    duration_s = sum(map(len, speech)) / 24_000
    assert server.metric("st_audio_input_seconds_total") - heard_s == pytest.approx(duration_s)
    assert server.metric("st_ws_sessions_active") == 0
    assert server.metric("st_live_lag_seconds_count") - n_lags >= 2, "one for every stretch of speech"
    elapsed_ms = [event["elapsed_ms"] for event in speaker.of("session.output_transcript.delta")]
    assert elapsed_ms == sorted(elapsed_ms)
    assert elapsed_ms[-1] <= 1000 * duration_s


def test_the_language_changes_with_the_next_stretch_of_speech(server: Server, clips: list[Path]) -> None:
    first, second = spoken(clips[1]), spoken(clips[3])
    with speaking(server.url) as speaker:
        middle = len(first) // 2
        speaker.speak(first[:middle])
        speaker.translate_into("zh")
        speaker.speak(first[middle:])
        speaker.speak(second)
        assert speaker.close() == 1000
    updated = speaker.of("session.updated")
    assert [event["session"]["audio"]["output"]["language"] for event in updated] == ["zh"]
    deltas = speaker.of("session.output_transcript.delta")
    groups = itertools.groupby(deltas, lambda event: event["elapsed_ms"])
    stretches = ["".join(event["delta"] for event in group) for _, group in groups]
    assert_german(stretches[0])
    assert_chinese(stretches[-1])


def test_agreement_sends_text_while_somebody_speaks(clips: list[Path]) -> None:
    speech = spoken(clips[1])
    with running(settings_for_tests(live_again_s=0.5), ScriptedTranslator("eins zwei drei vier")) as server:
        with speaking(server.url, model="scripted", policy="agreement") as speaker:
            for at in range(0, len(speech), 2400):
                speaker.speak(speech[at : at + 2400])
                speaker.translate_into("de")  # its answer shows that the chunk has been heard
                speaker.until("session.updated")
            assert speaker.close() == 1000
        assert speaker.text == "eins zwei drei vier"
        early, *_, late = [event["elapsed_ms"] for event in speaker.of("session.output_transcript.delta")]
        assert early < late - 1000


MISTAKES: list[tuple[str | bytes, str]] = [
    ("", "type"),
    ("{", "type"),
    ("[]", "type"),
    ("null", "type"),
    ("[" * 100_000, "type"),
    ('{"type":"response.create"}', "type"),
    ('{"type":"session.update"}', "session"),
    ('{"type":"session.update","session":{"model":"other"}}', "session.model"),
    ('{"type":"session.update","session":{"audio":{"output":{"language":"fr"}}}}', "session.audio.output.language"),
    (
        '{"type":"session.update","session":{"audio":{"input":{"transcription":{"model":"whisper-1"}}}}}',
        "session.audio.input.transcription",
    ),
    ('{"type":"session.input_audio_buffer.append"}', "audio"),
    ('{"type":"session.input_audio_buffer.append","audio":[1]}', "audio"),
    ('{"type":"session.input_audio_buffer.append","audio":"no base64"}', "audio"),
    ('{"type":"session.input_audio_buffer.append","audio":"AAAA"}', "audio"),
    ('{"type":"session.close","event_id":7}', "event_id"),
    (b"\x00\xff", "type"),
]


def test_a_mistake_is_an_error_event_and_costs_nothing_else(server: Server, clip: Path) -> None:
    with speaking(server.url) as speaker:
        for message, param in MISTAKES:
            speaker.socket.send(message)
            error = RealtimeErrorEvent.model_validate(speaker.hear()).error
            assert (error.type, error.code, error.param) == ("invalid_request_error", "invalid_field", param)
        speaker.send("session.update", event_id="mine", session={"audio": {"output": {"language": "fr"}}})
        error = RealtimeErrorEvent.model_validate(speaker.hear()).error
        assert error.event_id == "mine"
        assert error.message.endswith("unsupported target language 'fr'; supported: de, zh")
        speaker.speak(spoken(clip))
        assert speaker.close() == 1000
    assert_german(speaker.text)


def test_generated_messages_break_nothing(server: Server) -> None:
    rng = random.Random(0)
    words = [
        "type",
        "session.update",
        "session",
        "audio",
        "output",
        "language",
        "de",
        "zh",
        "event_id",
        "session.close",
    ]

    def value(depth: int) -> Any:
        kind = rng.randrange(7 if depth else 5)
        if kind < 5:
            return [None, rng.random() * 1e9, rng.choice(words), True, ""][kind]
        content = [value(depth - 1) for _ in range(rng.randrange(4))]
        return content if kind == 5 else {rng.choice(words): each for each in content}

    with speaking(server.url) as speaker:
        for _ in range(90):
            message = json.dumps({"type": rng.choice(words), **{rng.choice(words[2:-1]): value(4) for _ in range(3)}})
            if rng.random() < 0.3:
                cut = rng.randrange(len(message))
                message = message[:cut] + chr(rng.randrange(1, 0xD800)) + message[cut + 1 :]
            if '"type": "session.close"' in message:
                continue
            speaker.socket.send(message)
            assert speaker.hear()["type"] in ("error", "session.updated")
        assert speaker.close() == 1000


def test_too_many_mistakes_end_the_session(server: Server) -> None:
    before = ended(server, "client_error")
    with speaking(server.url) as speaker:
        for _ in range(100):
            speaker.socket.send("nonsense")
        assert speaker.end() == 1008
    assert len(speaker.of("error")) == 100
    assert speaker.events[-1]["type"] == "session.closed"
    wait_until(lambda: ended(server, "client_error") == before + 1)


def test_a_message_beyond_the_cap_ends_the_connection(server: Server) -> None:
    before = ended(server, "cancelled")
    with speaking(server.url) as speaker:
        speaker.send("session.input_audio_buffer.append", audio="A" * (1 << 20))
        assert speaker.end() == 1009
    wait_until(lambda: ended(server, "cancelled") == before + 1)


@pytest.mark.parametrize(
    ("query", "headers", "status", "words"),
    [
        ("", {}, 400, "the query parameter 'model' is missing; loaded: pocket"),
        ("?model=whisper-1", {}, 404, "no model 'whisper-1' is loaded; loaded: pocket"),
        ("?model=pocket&policy=guess", {}, 400, "unknown policy 'guess'; known: segment, agreement"),
        ("?model=pocket&intent=x", {}, 400, "unknown query parameter 'intent'; known: model, policy"),
        ("?model=pocket", {"Origin": "https://evil.example"}, 403, "pages of https://evil.example may not"),
        ("?model=pocket", {"Origin": "null"}, 403, "pages of null may not"),
        ("?model=pocket", {"Origin": "http://["}, 403, "pages of http://[ may not"),
    ],
)
def test_refusals_are_answers_to_the_handshake(
    server: Server, query: str, headers: dict[str, str], status: int, words: str
) -> None:
    before = ended(server, "client_error")
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{server.port}{LIVE}{query}", additional_headers=headers, open_timeout=PATIENCE_S)
    response = caught.value.response
    assert response.status_code == status
    assert words in json.loads(response.body or b"")["error"]["message"]
    assert response.headers["x-request-id"]
    wait_until(lambda: ended(server, "client_error") == before + 1)


def test_pages_of_this_server_and_of_allowed_sites_may_come() -> None:
    settings = settings_for_tests(allowed_origins="https://good.example, https://other.example")
    with running(settings, ScriptedTranslator("Hallo")) as server:
        for origin in (server.url, "https://good.example"):
            with speaking(server.url, {"Origin": origin}, model="scripted") as speaker:
                assert speaker.close() == 1000


def test_a_browser_is_answered_with_the_protocol_it_asks_for(server: Server) -> None:
    address = f"ws://127.0.0.1:{server.port}{LIVE}?model=pocket"
    with connect(address, subprotocols=["realtime", "openai-insecure-api-key.none"], open_timeout=PATIENCE_S) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "realtime"
        assert Speaker(socket).close() == 1000
