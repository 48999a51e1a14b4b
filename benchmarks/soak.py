"""`python -m benchmarks soak`: thousands of requests, some of them bad, and what they leave behind.

Clients ask the real server, in a process of its own, for translations of short recordings, streamed or not, into all
languages, as fast as they get them.  There are more clients than places, so that some are refused and come back when
they are told to.  One request in twenty misbehaves: it leaves at any moment, sends junk or too much, or stalls in the
middle.  Expected are the texts that the server gave to one client alone.

*Lost* are requests without a text, *wrong* are those with another than expected.  Memory and open files are sampled
from a tenth of the requests on, when all that is made on first use is there; *growth* is the difference between the
medians of the first and of the last quarter of these samples.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

import serve
from benchmarks.traffic.crowd import IDLE_S, MAX_UPLOAD_BYTES, Crowd, Tally, Wish
from benchmarks.traffic.server_process import ServerProcess, serving
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import RecipeError
from compress.prompt import LANGUAGES

REQUESTS: Final = 10_000
CLIENTS: Final = 16
MISBEHAVING: Final = 0.05
_PLACES: Final = 0.75  # of the server, for each client
_SAMPLES: Final = 200  # of memory and open files
_PERCENTILES: Final = {"p50": 50, "p99": 99, "highest": 100}
_SETTLE_S: Final = 10.0  # for the last connections to close

Sample = tuple[float, int, int]  # resident memory in MB, open files, threads


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--model", type=Path, default=POCKET, metavar="DIR", help="checkpoint (default: pocket)")
    parser.add_argument("--requests", type=int, default=REQUESTS, metavar="N", help=f"default: {REQUESTS}")
    parser.add_argument("--clients", type=int, default=CLIENTS, metavar="N", help=f"at a time (default: {CLIENTS})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of who asks for what (default: 0)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints a table, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, or the server does not start.
        CheckpointError: see `compress.errors`.
    """
    if options.requests < 20 or options.clients < 2:
        raise RecipeError("--requests must be at least 20, and --clients at least 2")
    checkpoint = Checkpoint.open(options.model)
    places = max(1, round(options.clients * _PLACES))
    limits = {"max-requests": places, "max-batch": min(8, places), "max-upload-bytes": MAX_UPLOAD_BYTES}
    flags = [str(word) for name, value in {**limits, "idle-s": IDLE_S}.items() for word in (f"--{name}", value)]
    with serving(options.model, *flags) as server:
        seen = asyncio.run(_soak(server, checkpoint.name, options.requests, options.clients, options.seed))
    seen |= {"tracebacks": server.log.count("Traceback"), "exit_code": server.exit_code}
    _print(seen, f"{checkpoint.name}: {options.requests:,} requests of {options.clients} clients for {places} places")
    return {
        "model": {"name": checkpoint.name, "bytes": checkpoint.n_bytes},
        "requests": options.requests,
        "clients": options.clients,
        "places": places,
        "seen": seen,
    }


async def _soak(server: ServerProcess, model: str, n_requests: int, n_clients: int, seed: int) -> dict[str, Any]:
    crowd = Crowd(server.url, model, seed)
    wishes = await _wishes(crowd)
    crowd.tally = Tally()
    draw = random.Random(seed)
    plan = iter([(draw.random() < MISBEHAVING, draw.choice(wishes)) for _ in range(n_requests)])
    samples = [_sample(server)]
    started = time.perf_counter()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), transient=True) as bar:
        task = bar.add_task("requests", total=n_requests)

        async def client() -> None:
            for bad, wish in plan:
                await (crowd.misbehave(wish) if bad else crowd.visit(wish))
                bar.advance(task)
                if bar.tasks[task].completed % max(1, n_requests // _SAMPLES) == 0:
                    samples.append(_sample(server))

        async with asyncio.TaskGroup() as clients:
            for _ in range(n_clients):
                clients.create_task(client())
    seconds = time.perf_counter() - started
    await crowd.close()
    await asyncio.sleep(min(_SETTLE_S, seconds))
    return _numbers(crowd.tally, seconds, samples, _sample(server), await _outcomes(server.url))


async def _wishes(crowd: Crowd) -> list[Wish]:
    """Every example into every language, with the text that one client alone gets."""
    recordings = [file.read_bytes() for file in sorted((Path(serve.__file__).parent / "examples").glob("*.flac"))]
    asked = [Wish(audio, language) for audio in recordings for language in LANGUAGES]
    return [Wish(wish.audio, wish.to_language, await crowd.ask(wish)) for wish in asked]


async def _outcomes(url: str) -> dict[str, float]:
    """What the server has counted, and what it believes to be in progress."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"{url}/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    outcomes = {sample.labels["outcome"]: 0.0 for sample in families["st_requests"].samples}
    for sample in families["st_requests"].samples:
        outcomes[sample.labels["outcome"]] += sample.value
    return {**outcomes, "in progress": families["st_inflight_requests"].samples[0].value}


def _sample(server: ServerProcess) -> Sample:
    with server.process.oneshot():
        return server.process.memory_info().rss / 1e6, server.process.num_fds(), server.process.num_threads()


def _numbers(
    tally: Tally, seconds: float, samples: Sequence[Sample], last: Sample, outcomes: dict[str, float]
) -> dict[str, Any]:
    settled = np.array(samples[len(samples) // 10 :])
    quarter = max(1, len(settled) // 4)
    first, end = np.median(settled[:quarter], 0), np.median(settled[-quarter:], 0)
    refusals_ms = np.array(tally.refusals_s or [0.0]) * 1000
    return {
        "answered": tally.answered,
        "lost": tally.lost,
        "wrong": tally.wrong,
        "misbehaved": dict(sorted(tally.misbehaved.items())),
        "unexpected": tally.unexpected,
        "troubles": dict(tally.troubles.most_common(5)),
        "seconds": round(seconds, 1),
        "answers_per_s": round(tally.answered / seconds, 2),
        "refused": len(tally.refusals_s),
        "refusal_ms": {name: round(float(np.percentile(refusals_ms, q)), 1) for name, q in _PERCENTILES.items()},
        "memory_mb": {"at_first": round(samples[0][0], 1), "growth": round(float(end[0] - first[0]), 1)}
        | {"highest": round(float(settled[:, 0].max()), 1), "at_last": round(last[0], 1)},
        "files": {"at_first": samples[0][1], "highest": int(settled[:, 1].max()), "at_last": last[1]},
        "threads": {"at_first": samples[0][2], "highest": int(settled[:, 2].max()), "at_last": last[2]},
        "outcomes": {name: int(value) for name, value in sorted(outcomes.items())},
    }


def _print(seen: dict[str, Any], title: str) -> None:
    table = Table("what", "seen", title=title, title_justify="left")
    for name, value in seen.items():
        words = ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(name.replace("_", " "), words)
    Console(width=120).print(table)
