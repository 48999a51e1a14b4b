"""The shapes that travel over HTTP."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from compress.prompt import LANGUAGES
from serve.engine import ModelInfo, Result
from serve.errors import InvalidField

RESPONSE_FORMATS = ("json", "text")
DONE = "data: [DONE]\n\n"


class TranslationForm(BaseModel):
    """The fields of `POST /v1/audio/translations` beside `file`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    to_language: str | None = Field(None, description=f"target language: {', '.join(LANGUAGES)}")
    response_format: Literal["json", "text"] = "json"
    stream: bool = False
    temperature: float = Field(0.0, description="only 0 (greedy decoding) is offered")
    prompt: str = Field("", description="not offered: must be empty")
    language: Literal["en"] = Field("en", description="spoken language")
    max_completion_tokens: int | None = Field(None, ge=1, description="cut the text after this many tokens")
    # Sent by load generators; usage always comes with the last event.
    stream_include_usage: bool = True
    stream_continuous_usage_stats: bool = False

    @field_validator("to_language")
    @classmethod
    def _offered(cls, value: str | None) -> str | None:
        if value is not None and value not in LANGUAGES:
            raise ValueError(f"unsupported target language {value!r}; supported: {', '.join(LANGUAGES)}")
        return value

    @field_validator("temperature")
    @classmethod
    def _greedy(cls, value: float) -> float:
        if value != 0:
            raise ValueError(f"temperature {value:g} is not offered; only 0 (greedy decoding) is")
        return value

    @field_validator("prompt")
    @classmethod
    def _fixed(cls, value: str) -> str:
        if value:
            raise ValueError("a prompt is not offered: the model is asked with the one it was trained on; leave it out")
        return value


def parse_form(fields: dict[str, str]) -> TranslationForm:
    """Checks the text fields of a request.

    Raises:
        InvalidField: names the first field that is wrong, and the valid choices.
    """
    try:
        form = TranslationForm.model_validate(fields)
    except ValidationError as error:
        details = error.errors()[0]
        field = str(details["loc"][0])
        raise InvalidField(field, _in_words(field, details["type"], details["msg"])) from None
    if form.stream and form.response_format != "json":
        raise InvalidField("response_format", "a stream is always json events; leave response_format out, or stream")
    return form


def _in_words(field: str, kind: str, message: str) -> str:
    if kind == "missing":
        return f"the form field {field!r} is missing"
    if kind == "extra_forbidden":
        return f"unknown form field {field!r}; known: file, {', '.join(TranslationForm.model_fields)}"
    return f"{field}: {message.removeprefix('Value error, ')}"


class Usage(BaseModel):
    """Token counts, under OpenAI's audio names and under the chat names that load generators read."""

    type: Literal["tokens"] = "tokens"
    input_tokens: int
    output_tokens: int
    total_tokens: int
    prompt_tokens: int
    completion_tokens: int


class TimingsMessage(BaseModel):
    """Where the time went, in seconds; `real_time_factor` is total_s / audio_s."""

    audio_s: float
    queue_wait_s: float
    time_to_first_text_s: float | None
    decode_s: float
    total_s: float
    real_time_factor: float


class Translation(BaseModel):
    """The json response."""

    text: str
    usage: Usage
    timings: TimingsMessage


class Done(Translation):
    """The last event of a stream but `[DONE]`."""

    type: Literal["transcript.text.done"] = "transcript.text.done"


def translation(result: Result, audio_s: float, first_text_s: float | None, total_s: float) -> Translation:
    """The json response; times count from the arrival of the request, the engine's from submission."""
    n_input, n_output = result.n_input_tokens, result.n_output_tokens
    usage = Usage(
        input_tokens=n_input,
        output_tokens=n_output,
        total_tokens=n_input + n_output,
        prompt_tokens=n_input,
        completion_tokens=n_output,
    )
    timings = TimingsMessage(
        audio_s=round(audio_s, 3),
        queue_wait_s=round(result.timings.queue_wait_s, 4),
        time_to_first_text_s=None if first_text_s is None else round(first_text_s, 4),
        decode_s=round(result.timings.decode_s, 4),
        total_s=round(total_s, 4),
        real_time_factor=round(total_s / audio_s, 4),
    )
    return Translation(text=result.text, usage=usage, timings=timings)


def delta_event(piece: str) -> str:
    """A piece of text as an event that both OpenAI's audio parser and a chat-completion parser accept."""
    return event(
        {
            "type": "transcript.text.delta",
            "delta": piece,
            "object": "translation.chunk",
            "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}],
        }
    )


def event(content: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def model_card(model: ModelInfo) -> dict[str, Any]:
    """An entry of `GET /v1/models`: OpenAI's fields, then what the checkpoint says of itself."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "kompakt",
        "languages": list(LANGUAGES),
        "bytes": model.n_bytes,
        "lineage": dict(model.lineage),
    }
