"""Files in, lines out: what `python -m serve translate` does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from compress.audio import WINDOW_S, decode
from compress.errors import KompaktError
from serve.engine import Request, Result, Translator

_AHEAD: Final = 8  # files decoded and handed to the engine before their turn to be printed


async def translate_files(engine: Translator, files: Sequence[Path], to_language: str) -> int:
    """Prints one line per file in the order given, errors to stderr; returns the exit code."""
    await engine.start()
    room = asyncio.Semaphore(_AHEAD)
    tasks = [asyncio.create_task(_translate(engine, file, to_language, room)) for file in files]
    failed = False
    try:
        for file, task in zip(files, tasks, strict=True):
            try:
                print(await task, flush=True)
            except (KompaktError, OSError) as error:
                failed = True
                reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                print(f"{file}: {reason}", file=sys.stderr, flush=True)
    finally:
        for task in tasks:
            task.cancel()
        await engine.close()
    return int(failed)


async def _translate(engine: Translator, file: Path, to_language: str, room: asyncio.Semaphore) -> str:
    async with room:
        samples = await asyncio.to_thread(decode, file, WINDOW_S)
        request = Request(engine.models[0].name, samples, to_language)
        async for piece in engine.translate(request):
            if isinstance(piece, Result):
                return " ".join(piece.text.split())  # a line per file, whatever the model wrote
    raise AssertionError("unreachable: an engine ends with a Result or an exception")
