"""`python -m benchmarks long-audio`: an hour of speech in one request; when its text begins, and what memory it takes.

The recordings are the page's examples, one after the other with pauses between them, as an Opus file that is within
the server's default limits.  A server in a process of its own translates each of them in turn, as a stream.  Given are
the time from the first byte sent to the first and to the last text; the stretches of speech that the server found,
which should be as many as there are sentences; and the server's resident memory: after a first short recording, at its
highest, and its growth from the first quarter of a recording's samples to the last, by their medians.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import av
import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

import serve
from benchmarks.traffic.callers import PATH
from benchmarks.traffic.server_process import ServerProcess, serving
from compress.audio import SAMPLE_RATE, Samples, decode
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import RecipeError
from compress.prompt import LANGUAGES

MINUTES: Final = (1.0, 10.0, 60.0)
_FIRST_MINUTES: Final = 0.6  # not counted: what is made on first use is there after it
_PAUSES_S: Final = (0.8, 2.0)
_BITS_PER_S: Final = 24_000
_SAMPLES_PER_S: Final = 2  # of memory
_QUIET_S: Final = 300  # without a word from the server


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--model", type=Path, default=POCKET, metavar="DIR", help="checkpoint (default: pocket)")
    parser.add_argument("--to", choices=list(LANGUAGES), default="de", help="target language (default: de)")
    minutes = " ".join(f"{one:g}" for one in MINUTES)
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=MINUTES, metavar="M", help=f"of speech (default: {minutes})"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints a table, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, or the server does not start, or fails.
        CheckpointError: see `compress.errors`.
    """
    if min(options.minutes) <= 0:
        raise RecipeError("each of --minutes must be more than 0")
    checkpoint = Checkpoint.open(options.model)
    recordings = []
    with TemporaryDirectory() as folder, serving(options.model) as server:
        file = Path(folder) / "recording.opus"
        _record(file, _FIRST_MINUTES)
        asyncio.run(_translate(server, file, checkpoint.name, options.to))
        before_mb = _memory_mb(server)
        for minutes in options.minutes:
            n_sentences = _record(file, minutes)
            recordings.append(
                {"minutes": minutes, "bytes": file.stat().st_size, "sentences": n_sentences}
                | asyncio.run(_translate(server, file, checkpoint.name, options.to))
            )
    _print(recordings, f"{checkpoint.name} into {options.to}, {before_mb:.0f} MB beforehand")
    return {
        "model": {"name": checkpoint.name, "bytes": checkpoint.n_bytes},
        "language": options.to,
        "minutes": list(options.minutes),
        "before_mb": round(before_mb, 1),
        "recordings": recordings,
    }


def _record(file: Path, minutes: float) -> int:
    """Writes a recording of at least so many minutes, the same one every time; returns its number of sentences."""
    n_sentences = 0
    with av.open(str(file), "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = _BITS_PER_S
        n_samples = 0
        for samples in _sentences():
            frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, n_samples, Fraction(1, SAMPLE_RATE)
            container.mux(stream.encode(frame))
            n_samples += len(samples)
            n_sentences += 1
            if n_samples >= minutes * 60 * SAMPLE_RATE:
                break
        container.mux(stream.encode(None))
    return n_sentences


def _sentences() -> Iterator[Samples]:
    """The page's examples in turn, for ever, each with a pause behind it."""
    clips = [decode(file) for file in sorted((Path(serve.__file__).parent / "examples").glob("*.flac"))]
    rng = random.Random(0)
    for clip in itertools.cycle(clips):
        yield np.pad(clip, (0, round(rng.uniform(*_PAUSES_S) * SAMPLE_RATE)))


async def _translate(server: ServerProcess, file: Path, model: str, to_language: str) -> dict[str, Any]:
    """Streams one recording's translation, and looks at the server meanwhile."""
    fields = {"model": model, "to_language": to_language, "stream": "true"}
    first_text_s = 0.0
    done: dict[str, Any] = {}
    async with _watched(server) as memory_mb, httpx.AsyncClient(timeout=_QUIET_S, trust_env=False) as http:
        started = time.perf_counter()
        with file.open("rb") as audio:
            async with http.stream("POST", server.url + PATH, data=fields, files={"file": audio}) as response:
                async for event in _events(response):
                    if event["type"] == "transcript.text.delta":
                        first_text_s = first_text_s or time.perf_counter() - started
                    else:
                        done = event
        total_s = time.perf_counter() - started
    quarter = max(1, len(memory_mb) // 4)
    return {
        "stretches": len(done["segments"]),
        "characters": len(done["text"]),
        "first_text_s": round(first_text_s, 2),
        "total_s": round(total_s, 1),
        "real_time_factor": round(total_s / done["timings"]["audio_s"], 4),
        "highest_mb": round(max(memory_mb), 1),
        "growth_mb": round(float(np.median(memory_mb[-quarter:]) - np.median(memory_mb[:quarter])), 1),
    }


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Pieces of text, then what ends a stream.

    Raises:
        RecipeError: the server refused, or broke off.
    """
    if not response.is_success:
        raise RecipeError(f"the server answered {response.status_code}: {(await response.aread()).decode()}")
    event: dict[str, Any] = {}
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            event = json.loads(line.removeprefix("data: "))
            if event["type"] == "error":
                raise RecipeError(f"the server broke off: {event['error']['message']}")
            yield event
    if event.get("type") != "transcript.text.done":
        raise RecipeError("the server's answer has no end")


@asynccontextmanager
async def _watched(server: ServerProcess) -> AsyncIterator[list[float]]:
    """The server's memory in MB, sampled as long as this lasts."""
    found = [_memory_mb(server)]

    async def look() -> None:
        while True:
            await asyncio.sleep(1 / _SAMPLES_PER_S)
            found.append(_memory_mb(server))

    watching = asyncio.create_task(look())
    try:
        yield found
    finally:
        watching.cancel()


def _memory_mb(server: ServerProcess) -> float:
    return float(server.process.memory_info().rss / 1e6)


def _print(recordings: list[dict[str, Any]], title: str) -> None:
    columns = ["recording", "sentences", "found", "first text", "whole text", "real-time factor", "highest", "growth"]
    table = Table(*columns, title=title, title_justify="left")
    for one in recordings:
        table.add_row(
            f"{one['minutes']:g} min",
            str(one["sentences"]),
            str(one["stretches"]),
            f"{one['first_text_s']:.2f} s",
            f"{one['total_s']:.1f} s",
            f"{one['real_time_factor']:.3f}",
            f"{one['highest_mb']:.0f} MB",
            f"{one['growth_mb']:+.1f} MB",
        )
    Console(width=120).print(table)
