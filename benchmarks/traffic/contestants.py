"""What a user might run instead of this server, asked in the same way."""

from __future__ import annotations

import asyncio
import base64
import json
import multiprocessing
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

import httpx
import torch

from benchmarks.traffic.callers import Callers, in_turns
from benchmarks.traffic.listening import said
from benchmarks.traffic.recordings import Recording
from compress.audio import SAMPLE_RATE, Samples
from compress.checkpoint import Checkpoint
from compress.errors import RecipeError
from compress.prompt import SYSTEM, instruction, translation
from compress.search.single import generate
from compress.translate import text_of
from serve.engine import Request, Translator

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

_PATIENCE_S: Final = 300.0


@dataclass(frozen=True)
class Text:
    """A translation, and how long its caller waited for the first of it, in seconds."""

    text: str
    first_text_s: float


class Contestant(Protocol):
    """Something that translates."""

    name: str
    answers_singly: bool

    async def ask(self, recording: Recording) -> Text:
        """One translation, while nothing else is asked for."""
        ...

    async def ask_all(self, sent: Sequence[Recording], n_callers: int) -> list[Text]:
        """All translations in their order, so many at once as it can do with so many callers."""
        ...


class Published:
    """transformers' `generate`, one recording after the other, each padded to the window of 30 s.

    It has a process of its own: in one with the embedded engine, torch would give it as few threads as that takes.
    """

    name = "published"
    answers_singly = True

    def __init__(self, checkpoint: Checkpoint, max_new_tokens: int) -> None:
        self._settings = checkpoint.path, max_new_tokens
        self._process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Self]:
        """Begins to load the model, and ends the process in the end."""
        with self._process:
            self._process.submit(_load, self._settings[0])
            yield self

    async def ask(self, recording: Recording) -> Text:
        """See `Contestant`."""
        started = time.perf_counter()
        (text,) = await self.generate([recording])
        return Text(text, time.perf_counter() - started)

    async def ask_all(self, sent: Sequence[Recording], n_callers: int) -> list[Text]:
        """See `Contestant`; callers stand in a queue."""
        del n_callers
        return [await self.ask(one) for one in sent]

    async def generate(self, sent: Sequence[Recording]) -> list[str]:
        """Texts of one batch."""
        wishes = [(one.samples, one.to_language) for one in sent]
        return await asyncio.get_running_loop().run_in_executor(self._process, _generate, *self._settings, wishes)


@cache
def _loaded(directory: Path) -> tuple[Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor]:
    checkpoint = Checkpoint.open(directory)
    model, processor = checkpoint.load_model("cpu", torch.float32), checkpoint.load_processor()
    processor.tokenizer.padding_side = "left"
    return model, processor


def _load(directory: Path) -> None:
    _loaded(directory)  # what that returns is too large to be sent


def _generate(directory: Path, max_new_tokens: int, wishes: Sequence[tuple[Samples, str]]) -> list[str]:
    model, processor = _loaded(directory)
    inputs = processor(
        text=[translation(to_language).text for _, to_language in wishes],
        audio=[samples for samples, _ in wishes],
        sampling_rate=SAMPLE_RATE,
        return_tensors="pt",
        padding=True,
    )
    n_prompt = inputs["input_ids"].shape[1]
    rows = generate(model, processor, max_new_tokens, **inputs)
    return [text_of(processor, row[n_prompt:]) for row in rows]


class Batched:
    """The same, as many recordings at a time as there are callers."""

    name = "published, batched"
    answers_singly = False

    def __init__(self, published: Published) -> None:
        self._published = published

    async def ask(self, recording: Recording) -> Text:
        """See `Contestant`."""
        return await self._published.ask(recording)

    async def ask_all(self, sent: Sequence[Recording], n_callers: int) -> list[Text]:
        """See `Contestant`."""
        started = time.perf_counter()
        found: list[Text] = []
        for at in range(0, len(sent), n_callers):
            texts = await self._published.generate(sent[at : at + n_callers])
            found += [Text(text, time.perf_counter() - started) for text in texts]
        return found


class Bare:
    """An engine without a server."""

    name = "our engine"
    answers_singly = True

    def __init__(self, engine: Translator, model: str) -> None:
        self._engine = engine
        self._model = model

    async def ask(self, recording: Recording) -> Text:
        """See `Contestant`."""
        found = await said(self._engine, Request(self._model, recording.samples, recording.to_language))
        return Text(found.text, found.first_text_s)

    async def ask_all(self, sent: Sequence[Recording], n_callers: int) -> list[Text]:
        """See `Contestant`."""
        return await in_turns(sent, n_callers, self.ask)


class Server:
    """A server with the translation route: ours, or vLLM's with our plugin."""

    answers_singly = True

    def __init__(self, name: str, url: str, model: str) -> None:
        self.name = name
        self._callers = Callers(url)
        self._model = model

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Self]:
        """Hangs up in the end."""
        try:
            yield self
        finally:
            await self._callers.close()

    async def ask(self, recording: Recording) -> Text:
        """See `Contestant`."""
        answer = await self._callers.call(recording, self._model)
        if answer.text is None:
            raise RecipeError(f"{self.name} refused a call, so nothing can be measured")
        return Text(answer.text, answer.total_s if answer.first_text_s is None else answer.first_text_s)

    async def ask_all(self, sent: Sequence[Recording], n_callers: int) -> list[Text]:
        """See `Contestant`."""
        return await in_turns(sent, n_callers, self.ask)


class Chat:
    """vLLM's server with its own class of the model, which only chats."""

    answers_singly = True

    def __init__(self, name: str, url: str, model: str, max_new_tokens: int) -> None:
        self.name = name
        # a proxy from the environment has no business here
        self._http = httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S, trust_env=False)
        self._fixed = {"model": model, "stream": True, "temperature": 0, "max_completion_tokens": max_new_tokens}

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Self]:
        """Hangs up in the end."""
        async with self._http:
            yield self

    async def ask(self, recording: Recording) -> Text:
        """See `Contestant`."""
        sound = {"data": base64.b64encode(recording.audio).decode(), "format": "wav"}
        messages = [
            {"role": "system", "content": SYSTEM},
            {
                "role": "user",
                "content": [
                    {"type": "input_audio", "input_audio": sound},
                    {"type": "text", "text": instruction(recording.to_language)},
                ],
            },
        ]
        started = time.perf_counter()
        first_text_s, pieces = None, []
        async with self._http.stream(
            "POST", "/v1/chat/completions", json=self._fixed | {"messages": messages}
        ) as reply:
            if not reply.is_success:
                raise RecipeError(f"{self.name} answered {reply.status_code}: {(await reply.aread()).decode()[:500]}")
            async for line in reply.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                piece = "".join(one["delta"].get("content") or "" for one in json.loads(line[6:])["choices"])
                if piece and first_text_s is None:
                    first_text_s = time.perf_counter() - started
                pieces.append(piece)
        return Text("".join(pieces), first_text_s if first_text_s is not None else time.perf_counter() - started)

    async def ask_all(self, sent: Sequence[Recording], n_callers: int) -> list[Text]:
        """See `Contestant`."""
        return await in_turns(sent, n_callers, self.ask)
