"""The shapes of what the server answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from compress.prompt import language
from serve.captions import Cue
from serve.interpreter import Passage

DONE = "data: [DONE]\n\n"


class Usage(BaseModel):
    """Token counts, under OpenAI's audio names and under the chat names that load generators read."""

    type: Literal["tokens"] = "tokens"
    input_tokens: int
    output_tokens: int
    total_tokens: int
    prompt_tokens: int
    completion_tokens: int


class TimingsMessage(BaseModel):
    """Where the time went, in seconds; `real_time_factor` is total_s / audio_s.

    Waiting and decoding are those of all stretches of speech, added up; they may have overlapped.
    """

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


class SegmentMessage(BaseModel):
    """A stretch of speech, in seconds of the audio, and its text."""

    id: int
    start: float
    end: float
    text: str


class VerboseTranslation(Translation):
    """The verbose_json response: OpenAI's fields, without the scores that this model does not have."""

    task: Literal["translate"] = "translate"
    language: str = Field(description="of the text, such as german")
    duration: float = Field(description="seconds of audio")
    segments: list[SegmentMessage]


class Done(Translation):
    """The last event of a stream but `[DONE]`."""

    type: Literal["transcript.text.done"] = "transcript.text.done"
    segments: list[SegmentMessage]


@dataclass(frozen=True)
class Translated:
    """A recording's translation.

    Attributes:
        to_language: code of the language.
        text: all of it.
        passages: what it is made of; without any speech, there are none.
        audio_s: length of the recording.
        first_text_s: from the request's arrival to the first piece of text; None if there was none.
        total_s: from the request's arrival to the end.
    """

    to_language: str
    text: str
    passages: Sequence[Passage]
    audio_s: float
    first_text_s: float | None
    total_s: float


def translation(done: Translated) -> Translation:
    """The json response."""
    results = [passage.result for passage in done.passages]
    n_input, n_output = sum(one.n_input_tokens for one in results), sum(one.n_output_tokens for one in results)
    usage = Usage(
        input_tokens=n_input,
        output_tokens=n_output,
        total_tokens=n_input + n_output,
        prompt_tokens=n_input,
        completion_tokens=n_output,
    )
    timings = TimingsMessage(
        audio_s=round(done.audio_s, 3),
        queue_wait_s=round(sum(one.timings.queue_wait_s for one in results), 4),
        time_to_first_text_s=None if done.first_text_s is None else round(done.first_text_s, 4),
        decode_s=round(sum(one.timings.decode_s for one in results), 4),
        total_s=round(done.total_s, 4),
        real_time_factor=round(done.total_s / done.audio_s, 4),
    )
    return Translation(text=done.text, usage=usage, timings=timings)


def verbose_translation(done: Translated) -> VerboseTranslation:
    """The verbose_json response."""
    return VerboseTranslation(
        **translation(done).model_dump(),
        language=language(done.to_language).name.lower(),
        duration=round(done.audio_s, 3),
        segments=_segments(done),
    )


def done_event(done: Translated) -> str:
    """The event that ends a stream's text."""
    return event(Done(**translation(done).model_dump(), segments=_segments(done)).model_dump())


def _segments(done: Translated) -> list[SegmentMessage]:
    return [
        SegmentMessage(id=i, start=round(cue.start_s, 3), end=round(cue.end_s, 3), text=cue.text)
        for i, cue in enumerate(cues(done.passages))
    ]


def cues(passages: Sequence[Passage]) -> list[Cue]:
    """The passages that have a text."""
    return [Cue(one.start_s, one.end_s, one.result.text) for one in passages if one.result.text]


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
