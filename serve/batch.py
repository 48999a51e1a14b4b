"""Clips of one model that are decoded together, from samples to pieces of text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.decoding import Decoding, encode, log_mel
from compress.prompt import translation
from serve.engine import Request, Result, Timings
from serve.text_stream import TextStream

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor


@dataclass(frozen=True)
class LoadedModel:
    """Weights and processor of one checkpoint."""

    model: Qwen2AudioForConditionalGeneration
    processor: Qwen2AudioProcessor


class Job:
    """A request in the engine and the way back to the one who waits for it.

    `emit` is called from the engine's thread with pieces of text, then with a `Result` or an exception.
    `cancelled` is set from any thread and read between two steps.
    """

    def __init__(self, request: Request, emit: Callable[[str | Result | Exception], None]) -> None:
        self.request = request
        self.emit = emit
        self.cancelled = False
        self.submitted = time.perf_counter()


class _Row:
    """A job on its way through a batch."""

    def __init__(self, job: Job, text: TextStream, n_input_tokens: int, max_new_tokens: int, started: float) -> None:
        self.job = job
        self.n_input_tokens = n_input_tokens
        self._text = text
        self._n_tokens = 0
        self._max_new_tokens = max_new_tokens
        self._started = started
        self._first_text: float | None = None

    def push(self, token_id: int | None, last: bool) -> bool:
        """Takes the row's next token, tells the caller, and says whether the row has ended."""
        if token_id is not None:
            self._n_tokens += 1
            piece = self._text.push(token_id)
            if piece:
                self._first_text = self._first_text or time.perf_counter()
                self.job.emit(piece)
        ended = last or self._n_tokens >= self._max_new_tokens
        if ended:
            self.job.emit(self._result())
        return ended

    def _result(self) -> Result:
        submitted, first = self.job.submitted, self._first_text
        timings = Timings(
            queue_wait_s=self._started - submitted,
            first_text_s=None if first is None else first - submitted,
            decode_s=time.perf_counter() - self._started,
        )
        return Result(self._text.text, self.n_input_tokens, self._n_tokens, timings)


class Batch:
    """Jobs that started together.  Rows leave as they end or are cancelled."""

    def __init__(self, loaded: LoadedModel, jobs: Sequence[Job], max_new_tokens: int) -> None:
        """Encodes the audio and runs the prompts."""
        started = time.perf_counter()
        tokenizer = loaded.processor.tokenizer
        audio = encode(loaded.model, log_mel(loaded.processor, [job.request.samples for job in jobs]))
        prompts = [translation(job.request.to_language) for job in jobs]
        self._rows: dict[int, _Row] = {}
        for i, (job, clip, prompt) in enumerate(zip(jobs, audio, prompts, strict=True)):
            n_prompt = sum(
                len(tokenizer.encode(part, add_special_tokens=False)) for part in (prompt.before, prompt.after)
            )
            limit = min(job.request.max_new_tokens or max_new_tokens, max_new_tokens)
            self._rows[i] = _Row(job, TextStream(tokenizer), len(clip) + n_prompt, limit, started)
        self._decoding = Decoding(loaded.model, loaded.processor, audio, prompts, max_new_tokens)

    @property
    def jobs(self) -> list[Job]:
        """Those whose rows are still being decoded."""
        return [row.job for row in self._rows.values()]

    def step(self) -> None:
        """Drops cancelled rows, then advances the others by one token."""
        self._leave({i for i, row in self._rows.items() if row.job.cancelled})
        tokens = self._decoding.step()
        self._leave({token.row for token in tokens if self._rows[token.row].push(token.id, token.last)})

    def abandon(self) -> None:
        """Forgets all rows, after an error."""
        self._rows.clear()

    def _leave(self, rows: set[int]) -> None:
        self._decoding.drop(rows)
        for row in rows:
            del self._rows[row]
