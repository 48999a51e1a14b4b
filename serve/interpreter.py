"""A recording's text: its stretches of speech are translated several at a time and told in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from compress.audio import Samples
from serve.engine import Result
from serve.recording import Guess, Heard, Recording, Speech

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
    listener = _Listener(recording, translate, ahead)
    reader = asyncio.create_task(listener.listen())
    text_before = False
    try:
        while (event := await listener.told.get()) is not None:
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Heard):
                yield event
                continue
            speech, turn = event
            said = False
            async for piece in turn.events():
                if isinstance(piece, Result):
                    yield Passage(speech.start_s, speech.end_s, piece)
                else:
                    yield piece if said or not text_before else joiner + piece
                    said = True
            text_before |= said
            listener.room.release()
    finally:
        ending = [reader, *listener.tasks]
        for task in ending:
            task.cancel()
        recording.close()
        await asyncio.gather(*ending, return_exceptions=True)


class _Listener:
    """Begins the translation of what is heard, while there is room.

    Attributes:
        told: what is heard, and stretches of speech with their translations, in order; then None or an error.
        room: for translations.
        tasks: those that run.
    """

    def __init__(self, recording: Recording, translate: Translate, ahead: int) -> None:
        self.told: asyncio.Queue[Heard | tuple[Speech, _Turn] | Exception | None] = asyncio.Queue()
        self.room = asyncio.Semaphore(ahead)
        self.tasks: set[asyncio.Task[None]] = set()
        self._recording = recording
        self._translate = translate

    async def listen(self) -> None:
        """Hears all of the recording."""
        early: _Turn | None = None
        try:
            async for event in self._recording:
                match event:
                    case Heard():
                        self.told.put_nowait(event)
                    case Guess():
                        self.told.put_nowait(Heard(event.audio_s))
                        early = await self._begin(event.samples)
                    case Speech():
                        if early is not None and early.samples is event.samples:
                            turn = early
                        else:
                            self._give_up(early)
                            turn = await self._begin(event.samples)
                        early = None
                        self.told.put_nowait((event, turn))
            self.told.put_nowait(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the one who asked for the text
            self.told.put_nowait(error)
        finally:
            self._give_up(early)

    async def _begin(self, samples: Samples) -> _Turn:
        await self.room.acquire()
        turn = _Turn(samples)
        turn.task = task = asyncio.create_task(turn.take(self._translate))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return turn

    def _give_up(self, guessed: _Turn | None) -> None:
        """Ends a translation that nobody will be told of."""
        if guessed is not None:
            guessed.task.cancel()
            self.room.release()


class _Turn:
    """The translation of one stretch, which may be ahead of those that are told first."""

    task: asyncio.Task[None]

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self._events: asyncio.Queue[str | Result | Exception] = asyncio.Queue()

    async def take(self, translate: Translate) -> None:
        """Has it translated."""
        try:
            async with aclosing(translate(self.samples)) as pieces:
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
