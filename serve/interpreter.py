"""A recording's text: its stretches of speech are translated several at a time and told in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from compress.audio import Samples
from serve.engine import Result
from serve.recording import Heard, Recording, Speech

Translate = Callable[[Samples], AsyncGenerator[str | Result, None]]  # as an engine does


@dataclass(frozen=True)
class Passage:
    """A stretch of speech, from `start_s` to `end_s` of the recording, and what the engine made of it."""

    start_s: float
    end_s: float
    result: Result


async def interpret(
    recording: Recording, translate: Translate, ahead: int, joiner: str
) -> AsyncGenerator[Heard | str | Passage, None]:
    """Translates a recording.

    The pieces of text, joined, are the text of the whole recording.  Closing the generator ends everything that it
    has begun.

    Args:
        recording: is closed at the end.
        translate: an engine's.
        ahead: stretches that may be translated, or wait to be told, at a time; further ones are not heard yet.
        joiner: what stands between two of them in the target language.

    Yields:
        What has been heard; pieces of text; and each passage when its text is complete.

    Raises:
        AudioError, ServeError: as the recording or the engine does; what came before is told first.
    """
    running: asyncio.Queue[Heard | _Turn | Exception | None] = asyncio.Queue()
    room = asyncio.Semaphore(ahead)
    tasks: set[asyncio.Task[None]] = set()
    reader = asyncio.create_task(_read(recording, translate, running, room, tasks))
    text_before = False
    try:
        while (event := await running.get()) is not None:
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Heard):
                yield event
                continue
            said = False
            async for piece in event.events():
                if isinstance(piece, Result):
                    yield Passage(event.speech.start_s, event.speech.end_s, piece)
                else:
                    yield piece if said or not text_before else joiner + piece
                    said = True
            text_before |= said
            room.release()
    finally:
        ending = [reader, *tasks]
        for task in ending:
            task.cancel()
        recording.close()
        await asyncio.gather(*ending, return_exceptions=True)


async def _read(
    recording: Recording,
    translate: Translate,
    running: asyncio.Queue[Heard | _Turn | Exception | None],
    room: asyncio.Semaphore,
    tasks: set[asyncio.Task[None]],
) -> None:
    """Begins the translation of what is heard, while there is room."""
    try:
        async for event in recording:
            if isinstance(event, Heard):
                running.put_nowait(event)
                continue
            await room.acquire()
            turn = _Turn(event)
            task = asyncio.create_task(turn.take(translate))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            running.put_nowait(turn)
        running.put_nowait(None)
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the one who asked for the text
        running.put_nowait(error)


class _Turn:
    """The translation of one stretch, which may be ahead of those that are told first."""

    def __init__(self, speech: Speech) -> None:
        self.speech = speech
        self._events: asyncio.Queue[str | Result | Exception] = asyncio.Queue()

    async def take(self, translate: Translate) -> None:
        """Has it translated."""
        try:
            async with aclosing(translate(self.speech.samples)) as pieces:
                async for piece in pieces:
                    self._events.put_nowait(piece)
        except Exception as error:  # noqa: BLE001 - as above
            self._events.put_nowait(error)

    async def events(self) -> AsyncGenerator[str | Result, None]:
        """Pieces of text, then the result, as they come."""
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Result):
                return
