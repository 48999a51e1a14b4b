"""`python -m benchmarks batching`: the embedded engine under several clients at once, against one after the other.

A client asks for the translation of a clip, waits for the whole text, and asks for the next one.  One client and
several do the same requests: the page's example clips, each into all languages.  The texts must be the same.

What to expect.  A clip is read once (its audio and its prompt), which costs the same work however many clients there
are, and then decoded a token a step, and a step over few clips costs nearly what a step over one does.  So with r
seconds of reading and d seconds of decoding a clip, one client has a clip in r + d, and n clients in r + d / n or a
little more.  On a CPU two threads share this work, so that it takes half the time where a second core is idle; one
client has no use for it.

How.  One engine does all passes in one process, warmed up; passes take turns in going first, so that a machine busy
with something else slows all alike.  `ratio` is clips per second over those of one client in the same repeat: medians
of the repeats, and quartiles.  Seconds on a shared CPU say more about its other work, but are kept to see what a ratio
is a ratio of: clips per second, and what a caller waits for the first piece of text.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

import serve
from benchmarks import spread
from benchmarks.traffic.callers import in_turns
from compress.audio import decode
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import RecipeError
from compress.prompt import LANGUAGES
from serve.engine import Request, Result, Translator
from serve.engines.transformers_engine import TransformersEngine

CLIENTS: Final = (2, 4, 8)
REQUESTS: Final = 48
REPEATS: Final = 5
CLIPS: Final = Path(serve.__file__).parent / "examples"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--model", type=Path, default=POCKET, metavar="DIR", help="checkpoint (default: pocket)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    clients = " ".join(map(str, CLIENTS))
    parser.add_argument(
        "--clients", type=int, nargs="+", default=CLIENTS, metavar="N", help=f"at once (default: {clients})"
    )
    parser.add_argument("--requests", type=int, default=REQUESTS, metavar="N", help=f"a pass (default: {REQUESTS})")
    parser.add_argument("--repeats", type=int, default=REPEATS, metavar="N", help=f"of each pass (default: {REPEATS})")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints a table, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, or two passes gave different texts.
        CheckpointError, SettingsError: see `TransformersEngine`.
    """
    if min(*options.clients, options.requests, options.repeats) < 1:
        raise RecipeError("--clients, --requests and --repeats must be at least 1")
    checkpoint = Checkpoint.open(options.model)
    engine = TransformersEngine([checkpoint], options.device, max_batch=max(options.clients))
    requests = list(_requests(checkpoint.name, options.requests))
    passes = asyncio.run(_measure(engine, requests, [1, *options.clients], options.repeats))
    _check_same([one for repeat in passes for one in repeat.values()])
    clients = [_numbers(passes, n) for n in (1, *options.clients)]
    _print(clients, f"{checkpoint.name}, {options.requests} requests, {options.repeats} repeats: median (quartiles)")
    return {
        "model": {"name": checkpoint.name, "bytes": checkpoint.n_bytes},
        "device": options.device,
        "requests": options.requests,
        "repeats": options.repeats,
        "clients": clients,
    }


@dataclass(frozen=True)
class _Pass:
    """All requests once: their texts in order, what each waited for its first text, and how long all of them took."""

    texts: list[str]
    first_text_s: list[float]
    took_s: float


def _requests(model: str, n_requests: int) -> Iterator[Request]:
    """Each clip into each language, over and over."""
    clips = [decode(path) for path in sorted(CLIPS.glob("*.flac"))]
    for number in range(n_requests):
        yield Request(model, clips[number % len(clips)], list(LANGUAGES)[number // len(clips) % len(LANGUAGES)])


async def _measure(
    engine: Translator, requests: Sequence[Request], clients: Sequence[int], repeats: int
) -> list[dict[int, _Pass]]:
    """Every number of clients once a repeat, in turning order."""
    await engine.start()
    try:
        found: list[dict[int, _Pass]] = []
        for number in range(repeats):
            order = clients if number % 2 else list(reversed(clients))
            found.append({n_clients: await _pass(engine, requests, n_clients) for n_clients in order})
        return found
    finally:
        await engine.close()


async def _pass(engine: Translator, requests: Sequence[Request], n_clients: int) -> _Pass:
    async def result(request: Request) -> Result:
        *_, last = [event async for event in engine.translate(request)]
        assert isinstance(last, Result)
        return last

    started = time.perf_counter()
    results = await in_turns(requests, n_clients, result)
    took_s = time.perf_counter() - started
    waits_s = [one.timings.first_text_s for one in results]
    texts = [one.text for one in results]
    return _Pass(texts, [wait_s for wait_s in waits_s if wait_s is not None], took_s)


def _check_same(passes: Sequence[_Pass]) -> None:
    """A faster way to another text would be no faster way."""
    if any(one.texts != passes[0].texts for one in passes):
        raise RecipeError("texts differ between one client and several, so their times cannot be compared")


def _numbers(passes: Sequence[dict[int, _Pass]], n_clients: int) -> dict[str, Any]:
    """What the result row keeps of a number of clients."""
    ratios = [repeat[1].took_s / repeat[n_clients].took_s for repeat in passes]
    mine = [repeat[n_clients] for repeat in passes]
    waits_s = np.quantile([wait for one in mine for wait in one.first_text_s], [0.5, 0.95])
    return {
        "clients": n_clients,
        "ratio": spread.quartiles(ratios, 2),
        "clips_per_s": round(statistics.median(len(one.texts) / one.took_s for one in mine), 2),
        "first_text_s": {"p50": round(waits_s[0], 3), "p95": round(waits_s[1], 3)},
    }


def _print(clients: Sequence[dict[str, Any]], title: str) -> None:
    columns = ["clients", "throughput", "clips / s", "first text, p50", "p95"]
    table = Table(*columns, title=title, title_justify="left")
    for one in clients:
        ratio = spread.shown(one["ratio"])
        waits = [f"{one['first_text_s'][name]:.3f} s" for name in ("p50", "p95")]
        table.add_row(str(one["clients"]), ratio, f"{one['clips_per_s']:.2f}", *waits)
    Console(width=120).print(table)
