"""Files in, lines or subtitles out: what `python -m serve translate` does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, Literal

from compress.audio import Samples
from compress.errors import KompaktError
from compress.prompt import language
from serve.captions import Cue, srt, vtt
from serve.engine import Request, Result, Translator
from serve.interpreter import Passage, interpret
from serve.recording import Recording

Format = Literal["text", "srt", "vtt"]

_FILES_AHEAD: Final = 8  # decoded and handed to the engine before their turn to be printed
_STRETCHES_AHEAD: Final = 4  # of each of them, at a time


async def translate_files(engine: Translator, files: Sequence[Path], to_language: str, output: Format = "text") -> int:
    """Prints one line per file in the order given, or its subtitles, and errors to stderr; returns the exit code."""
    await engine.start()
    room = asyncio.Semaphore(_FILES_AHEAD)
    tasks = [asyncio.create_task(_translate(engine, file, to_language, room)) for file in files]
    failed = False
    try:
        for file, task in zip(files, tasks, strict=True):
            try:
                print(_written(await task, language(to_language).joiner, output), flush=True)
            except (KompaktError, OSError) as error:
                failed = True
                reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                print(f"{file}: {reason}", file=sys.stderr, flush=True)
    finally:
        for task in tasks:
            task.cancel()
        await engine.close()
    return int(failed)


async def _translate(engine: Translator, file: Path, to_language: str, room: asyncio.Semaphore) -> list[Cue]:
    """What is said in a file, and when."""

    def ask(samples: Samples) -> AsyncGenerator[str | Result, None]:
        return engine.translate(Request(engine.models[0].name, samples, to_language, patient=True))

    async with room:
        recording = Recording(await asyncio.to_thread(file.open, "rb"))
        async with aclosing(interpret(recording, ask, _STRETCHES_AHEAD, language(to_language).joiner)) as events:
            passages = [event async for event in events if isinstance(event, Passage)]
    return [Cue(one.start_s, one.end_s, one.result.text) for one in passages if one.result.text]


def _written(cues: Sequence[Cue], joiner: str, output: Format) -> str:
    match output:
        case "srt":
            return srt(cues).rstrip("\n")
        case "vtt":
            return vtt(cues).rstrip("\n")
        case "text":
            # a line per file, whatever the model wrote
            return joiner.join(" ".join(cue.text.split()) for cue in cues)
