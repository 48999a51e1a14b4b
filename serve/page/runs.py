"""One translation as the page watches it, and which one of a reader's counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serve.client import ApiError, Client, Ended

_LOOK_S: Final = 0.1  # between two updates: every one costs the machine that is translating


class Turn:
    """A reader's turn, to be given up when it is `stopped`."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self.over = asyncio.Event()

    async def pause(self, seconds: float) -> bool:
        """Waits, unless it is stopped; returns whether it goes on."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopped.wait(), seconds)
        return not self.stopped.is_set()


class Turns:
    """Of each reader, the turn that counts: a later one stops the one before.

    Gradio can cancel what runs, but then what the reader has just asked for may get lost: the browser closes its
    stream of answers when all it knows of are complete, and may take the next question for one of them.
    """

    def __init__(self) -> None:
        self._turns: dict[str, Turn] = {}

    @asynccontextmanager
    async def take(self, reader: str) -> AsyncIterator[Turn]:
        """The reader's next turn, which begins when the one before is over."""
        before = self._turns.get(reader)
        turn = self._turns[reader] = Turn()
        try:
            if before is not None:
                before.stopped.set()
                await before.over.wait()
            yield turn
        finally:
            turn.over.set()
            if self._turns.get(reader) is turn:
                del self._turns[reader]

    def stop(self, reader: str) -> None:
        """Stops the reader's turn, if there is one."""
        if reader in self._turns:
            self._turns[reader].stopped.set()


@dataclass
class Run:
    """A translation: its text so far; once it is over its end, or what went wrong, or that it was stopped."""

    text: str = ""
    ended: Ended | None = None
    error: ApiError | None = None
    stopped: bool = False


async def follow(turn: Turn, client: Client, recording: Path, model: str, language: str) -> AsyncGenerator[Run, None]:
    """Has a recording translated; yields the run whenever it has changed, and last when it is over.

    Closing the generator cancels the translation.
    """
    run = Run()
    task = asyncio.create_task(_translate(run, client, recording, model, language))
    try:
        seen = ""
        while not task.done() and not turn.stopped.is_set():
            await asyncio.wait({task}, timeout=_LOOK_S)
            if run.text != seen and not task.done():
                seen = run.text
                yield run
        if task.done():
            await task  # what nobody foresaw is raised here
        run.stopped = not task.done()
        yield run
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _translate(run: Run, client: Client, recording: Path, model: str, language: str) -> None:
    try:
        with await asyncio.to_thread(recording.open, "rb") as audio:
            async with aclosing(client.translate(audio, model, language)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Ended):
                        run.text, run.ended = piece.text, piece
                    else:
                        run.text += piece
    except ApiError as error:
        run.error = error
    except FileNotFoundError:
        run.error = ApiError(0, "the recording is not kept here any more; upload it again")
