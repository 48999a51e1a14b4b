"""Callers of a server whose answers are timed: one after the other, several at once, or as they happen to come."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from benchmarks.traffic.recordings import Recording
from compress.errors import RecipeError
from serve.client import ApiError, Client, Ended

PATH: Final = "/v1/audio/translations"
# how a server that is only busy answers
_REFUSALS: Final = (429, 503)
_PATIENCE_S: Final = 300.0

Wish = TypeVar("Wish")
Got = TypeVar("Got")


@dataclass(frozen=True)
class Answer:
    """What became of one call.

    Attributes:
        recording: what was sent.
        text: what came; None where the server refused, being busy.
        n_tokens: of the text, as the server counts them.
        first_text_s: from the call to the first piece of text, in seconds; None where there was none.
        total_s: from the call to the end of the answer.
    """

    recording: Recording
    text: str | None
    n_tokens: int
    first_text_s: float | None
    total_s: float


@dataclass(frozen=True)
class Bout:
    """Answers in the order of the calls, and how long all of them took together, in seconds."""

    answers: tuple[Answer, ...]
    took_s: float

    @property
    def translated(self) -> list[Answer]:
        """Answers that are no refusals."""
        return [one for one in self.answers if one.text is not None]

    @property
    def per_s(self) -> float:
        """Recordings translated a second."""
        return len(self.translated) / self.took_s

    @property
    def audio_per_s(self) -> float:
        """Seconds of audio translated a second, RTFx."""
        return sum(one.recording.seconds for one in self.translated) / self.took_s


async def in_turns(wishes: Sequence[Wish], n_callers: int, ask: Callable[[Wish], Awaitable[Got]]) -> list[Got]:
    """What all of them get, in the order of the wishes, from so many callers, each with one in hand at a time."""
    found: dict[int, Got] = {}
    left = iter(enumerate(wishes))

    async def caller() -> None:
        for number, wish in left:
            found[number] = await ask(wish)

    await asyncio.gather(*(caller() for _ in range(n_callers)))
    return [found[number] for number in range(len(wishes))]


class Callers:
    """Call one server for translations by one model, over connections that are kept."""

    def __init__(self, url: str, n_most: int = 64) -> None:
        self._client = Client(url, _PATIENCE_S)
        self._client.keep_connections(n_most)

    async def close(self) -> None:
        """Hangs up."""
        await self._client.close()

    async def call(self, recording: Recording, model: str) -> Answer:
        """One call.

        Raises:
            RecipeError: it failed, and not because the server was busy.
        """
        started = time.perf_counter()
        first_text_s, text, n_tokens = None, "", 0
        try:
            async for event in self._client.translate(recording.audio, model, recording.to_language):
                if isinstance(event, Ended):
                    text, n_tokens = event.text, event.n_output_tokens
                elif first_text_s is None:
                    first_text_s = time.perf_counter() - started
        except ApiError as error:
            if error.status not in _REFUSALS:
                raise RecipeError(f"a call failed, so nothing can be measured: {error}") from error
            return Answer(recording, None, 0, None, time.perf_counter() - started)
        return Answer(recording, text, n_tokens, first_text_s, time.perf_counter() - started)

    async def closed_loop(self, recordings: Sequence[Recording], model: str, n_clients: int) -> Bout:
        """All recordings once, by so many clients, each of whom waits for an answer before the next call."""
        started = time.perf_counter()
        answers = await in_turns(recordings, n_clients, lambda one: self.call(one, model))
        return Bout(tuple(answers), time.perf_counter() - started)

    async def open_loop(self, recordings: Sequence[Recording], model: str, per_s: float, seed: int = 0) -> Bout:
        """All recordings once, called at moments that know nothing of the answers: a Poisson process.

        Args:
            recordings: in the order of the calls.
            model: of the server.
            per_s: calls a second, on average.
            seed: of the moments.
        """
        draw = random.Random(seed)
        started = time.perf_counter()
        due_s, calls = 0.0, []
        for recording in recordings:
            due_s += draw.expovariate(per_s)
            await asyncio.sleep(started + due_s - time.perf_counter())
            calls.append(asyncio.create_task(self.call(recording, model)))
        answers = await asyncio.gather(*calls)
        return Bout(tuple(answers), time.perf_counter() - started)


@asynccontextmanager
async def calling(url: str) -> AsyncIterator[Callers]:
    """Callers of a server, who hang up in the end."""
    callers = Callers(url)
    try:
        yield callers
    finally:
        await callers.close()
