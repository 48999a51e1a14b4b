"""`python -m benchmarks replicas`: one of several servers behind a front is killed under load; what callers notice.

Real servers, each a process, behind the real front (`--engine remote`).  Callers send sentences and read the streams;
when a third of them are answered, the busiest server gets SIGKILL.  Then each call has ended in one of these ways:

- *answered*: with the text that the same sentence gets from a single server;
- *broken off*: text had begun, so that no other server could go on with it, and the caller was told so;
- *lost*: an error, though no text had begun.  There should be none: the front sends such clips to another server;
- *wrong*: with another text.  There should be none.

It is a test of a promise, so it counts, and times nothing.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.traffic import recordings
from benchmarks.traffic.callers import calling, in_turns
from benchmarks.traffic.recordings import Recording
from benchmarks.traffic.server_process import ServerProcess, serving
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import RecipeError
from serve.client import ApiError, Client, Ended

SERVERS: Final = 2
CALLERS: Final = 8
CALLS: Final = 96
REPEATS: Final = 3
_SENTENCES: Final = 16
_KILL_AFTER: Final = 1 / 3  # of the calls
OUTCOMES: Final = ("answered", "broken off", "lost", "wrong")
_STARTUP: Final = ("--max-requests", "16")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--model", type=Path, default=POCKET, metavar="DIR", help="checkpoint (default: pocket)")
    parser.add_argument("--servers", type=int, default=SERVERS, metavar="N", help=f"default: {SERVERS}")
    parser.add_argument("--calls", type=int, default=CALLS, metavar="N", help=f"a run (default: {CALLS})")
    parser.add_argument("--repeats", type=int, default=REPEATS, metavar="N", help=f"runs (default: {REPEATS})")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Counts, prints a table, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, or a server does not start.
    """
    if options.servers < 2 or min(options.calls, options.repeats) < 1:
        raise RecipeError("--servers must be at least 2, --calls and --repeats at least 1")
    checkpoint = Checkpoint.open(options.model)
    sent = recordings.single(min(_SENTENCES, options.calls))
    with serving(checkpoint.path) as server:
        texts = asyncio.run(_texts(server.url, checkpoint.name, sent))
    runs = [_run(checkpoint, options.servers, sent, texts, options.calls) for _ in range(options.repeats)]
    _print(runs, f"{checkpoint.name}, {options.servers} servers, {CALLERS} callers, one server killed")
    return {
        "model": {"name": checkpoint.name, "bytes": checkpoint.n_bytes},
        "servers": options.servers,
        "callers": CALLERS,
        "calls": options.calls,
        "runs": runs,
    }


async def _texts(url: str, model: str, sent: Sequence[Recording]) -> list[str]:
    """What a single server says."""
    async with calling(url) as callers:
        return [one.text or "" for one in (await callers.closed_loop(sent, model, CALLERS)).answers]


def _run(
    checkpoint: Checkpoint, n_servers: int, sent: Sequence[Recording], texts: Sequence[str], n_calls: int
) -> dict[str, int]:
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(checkpoint.path, *_STARTUP)) for _ in range(n_servers)]
        urls = [flag for one in servers for flag in ("--remote-url", one.url)]
        front = stack.enter_context(serving(None, "--engine", "remote", *urls))
        found = asyncio.run(_load(front.url, servers, checkpoint.name, sent, texts, n_calls))
    return {name: found[name] for name in OUTCOMES}


async def _load(
    url: str,
    servers: Sequence[ServerProcess],
    model: str,
    sent: Sequence[Recording],
    texts: Sequence[str],
    n_calls: int,
) -> Counter[str]:
    """How many calls ended in which way, of which the busiest server saw only the first ones."""
    client = Client(url)
    client.keep_connections(CALLERS)
    found: Counter[str] = Counter()

    async def ask(number: int) -> None:
        found[await _call(client, model, sent[number % len(sent)], texts[number % len(sent)])] += 1
        if found.total() == round(n_calls * _KILL_AFTER):
            # the processor time that it took says who did most
            max(servers, key=lambda one: one.process.cpu_times().user).process.kill()

    try:
        await in_turns(range(n_calls), CALLERS, ask)
    finally:
        await client.close()
    return found


async def _call(client: Client, model: str, recording: Recording, text: str) -> str:
    begun = False
    try:
        async with aclosing(client.translate(recording.audio, model, recording.to_language)) as events:
            async for event in events:
                if isinstance(event, Ended):
                    return "answered" if event.text == text else "wrong"
                begun = True
    except ApiError:
        return "broken off" if begun else "lost"
    raise AssertionError("a stream ends with its summary or an error")


def _print(runs: Sequence[dict[str, int]], title: str) -> None:
    table = Table("run", *OUTCOMES, title=title, title_justify="left")
    for number, one in enumerate(runs, 1):
        table.add_row(str(number), *(str(one[name]) for name in OUTCOMES))
    Console(width=120).print(table)
