"""Clips of one model that are decoded together, from samples to pieces of text."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from compress.audio import SAMPLE_RATE
from compress.decoding import Decoding, encode, log_mel
from compress.prompt import LANGUAGES, translation
from compress.reading import Prefix, Reading, read, read_prefix
from serve.engine import Request, Result, Timings
from serve.engines.text_stream import TextStream

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

Event = str | Result | Exception  # pieces of text, then one of the others


@dataclass(frozen=True)
class LoadedModel:
    """Weights and processor of one checkpoint."""

    model: Qwen2AudioForConditionalGeneration
    processor: Qwen2AudioProcessor

    @cached_property
    def _prefix(self) -> Prefix:
        # the same for all languages
        return read_prefix(self.model, self.processor, translation(next(iter(LANGUAGES))))

    def read(self, request: Request) -> Reading:
        """Encodes a clip and runs its prompt; any thread may, at any time."""
        audio = encode(self.model, log_mel(self.processor, [request.samples]))
        return read(self.model, self.processor, audio, [translation(request.to_language)], self._prefix)


class Job:
    """A request in the engine and the way back to the one who waits for it.

    Attributes:
        request: what is asked for.
        events: what there is to tell, put there from the event loop.
        cancelled: set from any thread, and looked at between two steps.
        submitted: when it came, by `time.perf_counter`.
        started: when it was first worked on.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.cancelled = False
        self.submitted = self.started = time.perf_counter()


class _Row:
    """A job on its way through a batch."""

    def __init__(self, job: Job, text: TextStream, n_input_tokens: int) -> None:
        self.job = job
        self._text = text
        self._n_input_tokens = n_input_tokens
        self._n_tokens = 0
        self._first_text: float | None = None

    def push(self, token_id: int) -> str:
        """Takes the row's next token; returns the text that is now complete, possibly empty."""
        self._n_tokens += 1
        piece = self._text.push(token_id)
        if piece:
            self._first_text = self._first_text or time.perf_counter()
        return piece

    def result(self) -> Result:
        """What ends the row."""
        job, first = self.job, self._first_text
        timings = Timings(
            queue_wait_s=job.started - job.submitted,
            first_text_s=None if first is None else first - job.submitted,
            decode_s=time.perf_counter() - job.started,
        )
        return Result(self._text.text, self._n_input_tokens, self._n_tokens, timings)


class Batch:
    """The jobs of one model that run.  Rows join between steps, and leave as they end or are cancelled."""

    def __init__(self, loaded: LoadedModel, max_new_tokens: int) -> None:
        """An empty one.

        Args:
            loaded: the model.
            max_new_tokens: a text is cut here at the latest.
        """
        self._tokenizer = loaded.processor.tokenizer
        self._decoding = Decoding(loaded.model, loaded.processor, (), (), max_new_tokens)
        self._rows: dict[int, _Row] = {}

    @property
    def jobs(self) -> list[Job]:
        """Those whose rows are still being decoded."""
        return [row.job for row in self._rows.values()]

    def join(self, job: Job, reading: Reading) -> None:
        """Adds a job, whose first token the next step tells."""
        (number,) = self._decoding.join(reading, job.request.max_new_tokens)
        (n_input_tokens,) = reading.n_tokens
        self._rows[number] = _Row(job, TextStream(self._tokenizer), n_input_tokens)

    def step(self) -> list[tuple[Job, Event]]:
        """Advances the rows by one token, see `Decoding.step`; returns what there is to tell."""
        news: list[tuple[Job, Event]] = []
        for token in self._decoding.step():
            row = self._rows[token.row]
            if token.id is not None and (piece := row.push(token.id)):
                news.append((row.job, piece))
            if token.last:
                news.append((row.job, row.result()))
                del self._rows[token.row]
        return news

    def drop_cancelled(self) -> list[Job]:
        """Takes out those whose callers have left, and returns them."""
        gone = {number: row.job for number, row in self._rows.items() if row.job.cancelled}
        self._decoding.drop(set(gone))
        for number in gone:
            del self._rows[number]
        return list(gone.values())


@torch.inference_mode()
def warm_up(loaded: LoadedModel) -> None:
    """First calls allocate and pick kernels; nobody should wait for that."""
    batch = Batch(loaded, max_new_tokens=3)
    for code in LANGUAGES:
        job = Job(Request("", np.zeros(SAMPLE_RATE, np.float32), code))
        batch.join(job, loaded.read(job.request))
    while batch.jobs:
        batch.step()
