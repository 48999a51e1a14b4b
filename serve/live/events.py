"""What travels over a live session's socket: OpenAI's realtime translation events.

A client sends `session.update`, `session.input_audio_buffer.append` and `session.close`; the server sends
`session.created`, `session.updated`, `session.output_transcript.delta`, `session.closed` and `error`.
"""

from __future__ import annotations

from secrets import token_hex
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from pydantic_core import ErrorDetails

from compress.prompt import LANGUAGES
from serve.errors import InvalidField
from serve.problems import Problem

MAX_MESSAGE_BYTES: Final = 1 << 20  # of a client: 16 s of audio; whoever sends more is cut off (1009)

_TYPES: Final = ("session.update", "session.input_audio_buffer.append", "session.close")


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Event(_Message):
    event_id: str | None = Field(None, max_length=512)


class _Named(_Event):
    model_config = ConfigDict(extra="ignore")


class _Input(_Message):
    # what the protocol switches off with null, and what is not offered here
    transcription: None = None
    noise_reduction: None = None


class _Output(_Message):
    language: str | None = None

    @field_validator("language")
    @classmethod
    def _offered(cls, value: str | None) -> str | None:
        if value is not None and value not in LANGUAGES:
            raise ValueError(f"unsupported target language {value!r}; supported: {', '.join(LANGUAGES)}")
        return value


class _Audio(_Message):
    input: _Input = _Input()
    output: _Output = _Output()


class _Changes(_Message):
    audio: _Audio = _Audio()


class Update(_Event):
    """Changes the session: the target language, for speech that begins from here on."""

    type: Literal["session.update"]
    session: _Changes

    @property
    def language(self) -> str | None:
        """The target language; None leaves it as it is."""
        return self.session.audio.output.language


class Append(_Event):
    """More audio, see `pcm`."""

    type: Literal["session.input_audio_buffer.append"]
    audio: str


class Close(_Event):
    """No more audio: what has been spoken is still translated."""

    type: Literal["session.close"]


ClientEvent = Update | Append | Close

_CLIENT_EVENT: Final[TypeAdapter[ClientEvent]] = TypeAdapter(Annotated[ClientEvent, Field(discriminator="type")])


def parse(message: str) -> ClientEvent:
    """Reads a client's message.

    Raises:
        InvalidField: it is none of the three events; says what is wrong, and the valid choices.
    """
    try:
        return _CLIENT_EVENT.validate_json(message)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)[0]
        # pydantic begins with the event's type where it knows it
        field = ".".join(str(part) for part in details["loc"] if part not in _TYPES)
        raise InvalidField(field or "type", _in_words(field, details)) from None


def event_id(message: str) -> str | None:
    """The id that a client gave its message, if that can be told: also of one that is no event."""
    try:
        return _Named.model_validate_json(message).event_id
    except ValidationError:
        return None


def _in_words(field: str, details: ErrorDetails) -> str:
    match details["type"]:
        case "json_invalid" | "union_tag_not_found" | "model_attributes_type" | "dict_type":
            return f"not an event: send a JSON object whose type is one of {', '.join(_TYPES)}"
        case "union_tag_invalid":
            return f"unknown event type; known: {', '.join(_TYPES)}"
        case "missing":
            return f"{field} is missing"
        case "extra_forbidden":
            return f"{field} is not known, or cannot be changed"
        case "none_required":
            return f"{field} is not offered; leave it out or null"
    return f"{field}: {details['msg'].removeprefix('Value error, ')}"


def created(session: dict[str, Any]) -> dict[str, Any]:
    """The first event; see `session_object`."""
    return _event("session.created", session=session)


def updated(session: dict[str, Any]) -> dict[str, Any]:
    """The answer to `session.update`."""
    return _event("session.updated", session=session)


def closed() -> dict[str, Any]:
    """The last event."""
    return _event("session.closed")


def transcript_delta(text: str, heard_s: float) -> dict[str, Any]:
    """More text, to be appended as it is; `heard_s` is how much of the audio it follows from, in seconds."""
    return _event("session.output_transcript.delta", delta=text, elapsed_ms=round(1000 * heard_s))


def trouble(problem: Problem, event_id: str | None = None) -> dict[str, Any]:
    """An error; `event_id` is the client's own id of the event that caused it."""
    return _event("error", error={**problem.body["error"], "event_id": event_id})


def session_object(session_id: str, model: str, to_language: str, expires_at: int) -> dict[str, Any]:
    """A session as its events describe it; `expires_at` in Unix seconds."""
    return {
        "id": session_id,
        "type": "translation",
        "model": model,
        "expires_at": expires_at,
        "audio": {"input": {"transcription": None, "noise_reduction": None}, "output": {"language": to_language}},
    }


def _event(kind: str, **content: Any) -> dict[str, Any]:
    return {"type": kind, "event_id": f"event_{token_hex(10)}", **content}
