"""`python -m benchmarks peers`: the same recordings through what a user would otherwise run, and through ours.

- *published*: transformers' `generate`, one recording after the other, padded to 30 s, no text before it is whole: what
  the model's card and the paper's code do.
- *published, batched*: the same, eight recordings at a time; a batch is as slow as its longest text.
- *vLLM's server, its own class*: vLLM's OpenAI-compatible server as it comes, asked through chat completions, the only
  route that its class serves.
- *vLLM's server, our plugin*: the same server with this package installed beside it, through its translation route.
- *our engine*: the embedded engine without HTTP; *our server* on it; *our server on vLLM*.

All run at the same time on one machine, in fp32, each in a process with all cores (vLLM's with all but one where there
are more than two) and with its model loaded and warmed up, and idle while another is measured.  *First text*: one
caller, recordings of five seconds one by one, of each of which *published* makes him wait for the whole text; a round
counts their median.  *Throughput*: all recordings by eight callers, or in eights.  No recording comes twice, as vLLM
would remember what its encoder made of it.  Rounds take the contestants in turning order; ratios are taken round by
round: their median and quartiles.  Texts are compared with *published*'s: a faster way to other texts would be no
faster way.

What to expect.  A sentence of 3–5 s fills a tenth to a sixth of the window, so an encoder that skips the padding does
several times less work until the first text; a text's other tokens cost the same, alone, and nearly nothing more for
eight at once.  An HTTP layer adds the upload's parsing, decoding of the file and the search for speech.

vLLM takes part where `make vllm` has installed it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import spread
from benchmarks.traffic import recordings
from benchmarks.traffic.contestants import Bare, Batched, Chat, Contestant, Published, Server
from benchmarks.traffic.recordings import Recording
from benchmarks.traffic.server_process import VLLM, ServerProcess, serving, serving_vllm, starting
from compress.audio import decode
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import RecipeError
from serve.engines import vllm_engine
from serve.engines.transformers_engine import TransformersEngine

CALLERS: Final = 8
RECORDINGS: Final = 16
REPEATS: Final = 3
SECONDS: Final = 5.0
SINGLE: Final = 5  # recordings that one caller sends, one after the other, in a round
# the pairs that a buyer asks about: who, against whom
AGAINST: Final = ("published", "published, batched")
RESERVED_CORES: Final = 1  # by vLLM for all but the model, unless it is told otherwise
_WITHOUT_OURS: Final = {"VLLM_PLUGINS": "bitsandbytes"}
_MOST_TOKENS: Final = 120
_KEYS_AND_VALUES_BYTES: Final = 1 << 30


@dataclass
class _Found:
    """What one contestant did: a value a round, and the texts of all rounds."""

    first_text_s: list[float]
    per_s: list[float]
    texts: list[str]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--model", type=Path, default=POCKET, metavar="DIR", help="checkpoint (default: pocket)")
    parser.add_argument(
        "--recordings", type=int, default=RECORDINGS, metavar="N", help=f"a round (default: {RECORDINGS})"
    )
    parser.add_argument("--repeats", type=int, default=REPEATS, metavar="N", help=f"rounds (default: {REPEATS})")
    parser.add_argument("--no-vllm", action="store_true", help="leave vLLM out")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints a table, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, a server does not start, or a call fails.
    """
    if min(options.recordings, options.repeats) < 1:
        raise RecipeError("--recordings and --repeats must be at least 1")
    checkpoint = Checkpoint.open(options.model)
    python = None if options.no_vllm or not VLLM.is_file() else VLLM
    found = asyncio.run(_measure(checkpoint, options.recordings, options.repeats, python))
    numbers = [_numbers(name, one, found) for name, one in found.items()]
    http = _http(found)
    _print(numbers, http, f"{checkpoint.name}, {options.recordings} recordings, {options.repeats} rounds")
    return {
        "model": {"name": checkpoint.name, "bytes": checkpoint.n_bytes},
        "seconds": SECONDS,
        "single": SINGLE,
        "callers": CALLERS,
        "recordings": options.recordings,
        "repeats": options.repeats,
        "contestants": numbers,
        "http": http,
        "vllm_reserved_cores": int(
            (os.environ | vllm_engine.environment()).get(vllm_engine.RESERVED_CORES, RESERVED_CORES)
        ),
    }


async def _measure(checkpoint: Checkpoint, n: int, repeats: int, python: Path | None) -> dict[str, _Found]:
    with starting(_servers(checkpoint, python)) as servers:
        several = [_as_sent(one) for one in recordings.single(CALLERS + n * repeats)]
        single = [_as_sent(one) for one in recordings.of_length(SECONDS, 1 + SINGLE * repeats, "de")]
        async with _contestants(checkpoint, servers) as contestants:
            found = {one.name: _Found([], [], []) for one in contestants}
            with Progress() as progress:
                task = progress.add_task("rounds", total=(repeats + 1) * len(contestants))
                for one in contestants:
                    await one.ask(single[0])
                    await one.ask_all(several[:CALLERS], CALLERS)
                    progress.advance(task)
                for number in range(repeats):
                    alone = single[1 + SINGLE * number :][:SINGLE]
                    sent = several[CALLERS + n * number :][:n]
                    turn = number % len(contestants)
                    for one in contestants[turn:] + contestants[:turn]:
                        await _take_part(one, alone, sent, found[one.name])
                        progress.advance(task)
    return found


async def _take_part(one: Contestant, alone: Sequence[Recording], sent: Sequence[Recording], found: _Found) -> None:
    """A contestant's part of a round."""
    if one.answers_singly:
        waits = [(await one.ask(recording)).first_text_s for recording in alone]
        found.first_text_s.append(statistics.median(waits))
    started = time.perf_counter()
    found.texts += [text.text for text in await one.ask_all(sent, CALLERS)]
    found.per_s.append(len(sent) / (time.perf_counter() - started))


def _as_sent(recording: Recording) -> Recording:
    """With the samples that are in the file, so that who gets no file hears the same."""
    return replace(recording, samples=decode(recording.audio))


def _servers(checkpoint: Checkpoint, python: Path | None) -> list[AbstractContextManager[ServerProcess]]:
    """Ours, and where there is vLLM, its own with its own class, its own with our plugin, and ours on it."""
    limits = ("--max-batch", str(CALLERS), "--max-new-tokens", str(_MOST_TOKENS))
    ours = serving(checkpoint.path, *limits)
    if python is None:
        return [ours]
    flags, settings = _vllm_flags(checkpoint), vllm_engine.environment()
    return [
        ours,
        serving_vllm(python, checkpoint.path, flags, settings | _WITHOUT_OURS),
        serving_vllm(python, checkpoint.path, flags, settings),
        serving(checkpoint.path, *limits, "--engine", "vllm", python=python),
    ]


@asynccontextmanager
async def _contestants(
    checkpoint: Checkpoint, servers: Sequence[Future[ServerProcess]]
) -> AsyncIterator[list[Contestant]]:
    """All of them, loaded."""
    name = checkpoint.name
    async with AsyncExitStack() as stack:
        published = await stack.enter_async_context(Published(checkpoint, _MOST_TOKENS).started())
        engine = TransformersEngine([checkpoint], max_batch=CALLERS, max_new_tokens=_MOST_TOKENS)
        stack.push_async_callback(engine.close)
        await engine.start()
        ours, *with_vllm = (one.result().url for one in servers)
        listed: list[Contestant] = [published, Batched(published), Bare(engine, name), Server("our server", ours, name)]
        if with_vllm:
            own, plugged, ours_on_vllm = with_vllm
            listed += [
                Chat("vLLM's server, its own class", own, name, _MOST_TOKENS),
                Server("vLLM's server, our plugin", plugged, name),
                Server("our server on vLLM", ours_on_vllm, name),
            ]
        for one in listed:
            if isinstance(one, Chat | Server):
                await stack.enter_async_context(one.connected())
        yield listed


def _vllm_flags(checkpoint: Checkpoint) -> list[str]:
    """What our engine tells vLLM, for its own server."""
    flags = {
        "served-model-name": checkpoint.name,
        "dtype": "float32",
        "max-model-len": "1024",
        "max-num-seqs": str(CALLERS),
        "kv-cache-memory-bytes": str(_KEYS_AND_VALUES_BYTES),
        "mm-processor-cache-gb": "0",
        "limit-mm-per-prompt": json.dumps({"audio": 1}),
    }
    return ["--enforce-eager", *(word for name, value in flags.items() for word in (f"--{name}", value))]


def _numbers(name: str, one: _Found, found: Mapping[str, _Found]) -> dict[str, Any]:
    published = found[AGAINST[0]]
    return {
        "name": name,
        "texts": len(one.texts),
        "same_texts": sum(a == b for a, b in zip(one.texts, published.texts, strict=True)),
        "first_text_s": spread.quartiles(one.first_text_s) if one.first_text_s else None,
        "per_s": spread.quartiles(one.per_s),
        # how many times sooner, and how many times more
        "sooner_than": {AGAINST[0]: spread.ratios(published.first_text_s, one.first_text_s)}
        if one.first_text_s
        else {},
        "more_than": {other: spread.ratios(one.per_s, found[other].per_s) for other in AGAINST},
    }


def _http(found: Mapping[str, _Found]) -> dict[str, Any]:
    """What our HTTP layer costs: milliseconds of first text over the bare engine, and throughput beside vLLM's own."""
    served, bare = found["our server"], found["our engine"]
    later_ms = [1000 * (a - b) for a, b in zip(served.first_text_s, bare.first_text_s, strict=True)]
    costs = {
        "first_text_later_ms": spread.quartiles(later_ms),
        "throughput_of_bare": spread.ratios(served.per_s, bare.per_s),
    }
    if "our server on vLLM" in found:
        ours, theirs = found["our server on vLLM"], found["vLLM's server, our plugin"]
        costs["throughput_of_vllm"] = spread.ratios(ours.per_s, theirs.per_s)
        costs["first_text_of_vllm"] = spread.ratios(ours.first_text_s, theirs.first_text_s)
    return costs


def _print(numbers: Sequence[Mapping[str, Any]], http: Mapping[str, Mapping[str, float]], title: str) -> None:
    columns = ["", "first text, times sooner", *(f"throughput, times {other}" for other in AGAINST), "same texts"]
    table = Table(*columns, title=title, title_justify="left")
    for one in numbers:
        sooner = one["sooner_than"].get(AGAINST[0])
        more = [spread.shown(one["more_than"][other]) for other in AGAINST]
        table.add_row(one["name"], spread.shown(sooner) if sooner else "–", *more, str(one["same_texts"]))
    console = Console(width=140)
    console.print(table)
    for name, cost in http.items():
        console.print(f"{name.replace('_', ' ')}: {spread.shown(cost)}")
