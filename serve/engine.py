"""What every engine offers: speech in, pieces of text out, as they are generated."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from compress.errors import LanguageError
from compress.prompt import LANGUAGES
from serve.errors import UnknownModel

if TYPE_CHECKING:
    from compress.audio import Samples


@dataclass(frozen=True)
class Request:
    """One clip to translate.

    Attributes:
        model: name of a loaded model.
        samples: shape (n_samples,), mono float32 at `compress.audio.SAMPLE_RATE`, within the encoder's window.
        to_language: ISO 639-1 code of the target language.
        max_new_tokens: cut the text here; None leaves it to the engine's own limit.
        patient: rather wait for a place for as long as it takes than be refused by an engine that has been full for a
            while: what a recording's further stretches want, since a refusal would end a text that has begun.
    """

    model: str
    samples: Samples
    to_language: str
    max_new_tokens: int | None = None
    patient: bool = False


@dataclass(frozen=True)
class Timings:
    """Where an engine spent a request's time, in seconds.

    Attributes:
        queue_wait_s: from submission to the start of work on it.
        first_text_s: from submission to the first piece of text; None if there was none.
        decode_s: from the start of work on it to its last token; time that it shared with others is not divided.
    """

    queue_wait_s: float
    first_text_s: float | None
    decode_s: float


@dataclass(frozen=True)
class Result:
    """What follows the last piece of text: all pieces joined, token counts (audio included) and timings."""

    text: str
    n_input_tokens: int
    n_output_tokens: int
    timings: Timings


@dataclass(frozen=True)
class ModelInfo:
    """A loaded model.

    Attributes:
        name: by which requests ask for it.
        lineage: what its checkpoint says of itself.
        n_bytes: of its weights on disk; None if that cannot be told.
        created: when they were written, in Unix time.
        n_parameters: weights of the model, in whatever format they are stored; None if that cannot be told.
        n_stored: elements in its files, an adapter's not counted; None if that cannot be told.
    """

    name: str
    lineage: Mapping[str, Any]
    n_bytes: int | None
    created: int
    n_parameters: int | None = None
    n_stored: int | None = None

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the target languages that it was made for: one, where its lineage says which."""
        made_for = self.lineage.get("language")
        return (made_for,) if isinstance(made_for, str) and made_for in LANGUAGES else tuple(LANGUAGES)

    def check_language(self, to_language: str) -> None:
        """Raises `LanguageError` for a language that it was not made for, and would write nonsense in."""
        if to_language not in self.languages:
            raise LanguageError(f"model {self.name!r} translates into {', '.join(self.languages)}, not {to_language!r}")


def find_model(models: Sequence[ModelInfo], name: str) -> ModelInfo:
    """The model of that name among those that are loaded.

    Raises:
        UnknownModel: there is none.
    """
    for model in models:
        if model.name == name:
            return model
    raise UnknownModel(f"no model {name!r} is loaded; loaded: {', '.join(model.name for model in models)}")


class Translator(Protocol):
    """An engine.  Methods are called from one event loop."""

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The models it serves, the first is the default; known before `start` if they are loaded from this machine."""
        ...

    @property
    def alive(self) -> bool:
        """Started, warmed up and not dead: once it was True, False is for ever."""
        ...

    @property
    def trouble(self) -> str:
        """Why it takes no requests for now although it is alive, in words for clients; empty while it does."""
        ...

    @property
    def n_running(self) -> int:
        """Requests it holds, waiting or decoding."""
        ...

    async def start(self) -> None:
        """Loads and warms the models up; returns when the first request would be served at full speed.

        Raises:
            KompaktError: what the operator can mend, in words.
        """
        ...

    def translate(self, request: Request) -> AsyncGenerator[str | Result, None]:
        """Translates a clip: non-empty pieces of text, then one `Result`.

        Closing the generator, or cancelling the task that waits for it, frees the request's place in the engine.

        Raises:
            UnknownModel, LanguageError, AudioTooLong: the request cannot be served as it is.
            QueueFull, NotReady: it cannot be served now.
            EngineFailed: it was accepted, but the engine gave up on it.
        """
        ...

    def exposition(self) -> bytes:
        """Metrics of the engine's own in Prometheus' text format, to stand beside the server's; often empty."""
        ...

    async def close(self) -> None:
        """Ends what runs (its callers get `EngineFailed`) and frees the models."""
        ...
