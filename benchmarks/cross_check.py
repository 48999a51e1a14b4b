"""`python -m benchmarks cross-check`: what other people's benchmarks find of our server, over what ours finds.

vLLM's own benchmark of servers (`vllm bench serve --backend openai-audio`) and GuideLLM, where `make vllm` and
`make guidellm` have installed them, call the same server with the same recordings, in turn with our callers.  Near 1
means that our figures are not of our own making.

What to expect.  All have so many callers in a closed loop.  Each counts from the call to the first event with text, but
a tool that works harder between two calls leaves the server, on the same cores, less: it finds less throughput.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import spread
from benchmarks.traffic import recordings, tools
from benchmarks.traffic.callers import Bout, calling
from benchmarks.traffic.recordings import Recording
from benchmarks.traffic.server_process import serving
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import RecipeError

CLIENTS: Final = 4
RECORDINGS: Final = 16
REPEATS: Final = 3
_TO: Final = "de"  # the tools can send all into one language


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--model", type=Path, default=POCKET, metavar="DIR", help="checkpoint (default: pocket)")
    parser.add_argument("--clients", type=int, default=CLIENTS, metavar="N", help=f"at once (default: {CLIENTS})")
    parser.add_argument(
        "--recordings", type=int, default=RECORDINGS, metavar="N", help=f"a pass (default: {RECORDINGS})"
    )
    parser.add_argument("--repeats", type=int, default=REPEATS, metavar="N", help=f"of a pass (default: {REPEATS})")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints a table, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, no tool is installed, the server does not start, or a call fails.
    """
    if min(options.clients, options.recordings, options.repeats) < 1:
        raise RecipeError("--clients, --recordings and --repeats must be at least 1")
    there = list(tools.installed())
    if not there:
        raise RecipeError("there is nothing to compare with: run `make vllm` or `make guidellm`")
    checkpoint = Checkpoint.open(options.model)
    sent = recordings.single(options.recordings, languages=[_TO])
    with TemporaryDirectory() as folder, serving(checkpoint.path) as server, Progress() as progress:
        asyncio.run(_ours(server.url, checkpoint, sent[:2], options.clients))
        found = []
        for tool in there:
            theirs, ours = [], []
            for _ in progress.track(range(options.repeats), description=tool.name):
                ours.append(asyncio.run(_ours(server.url, checkpoint, sent, options.clients)))
                theirs.append(tool.measure(server.url, checkpoint, sent, options.clients, Path(folder)))
            found.append(_compared(tool.name, theirs, ours))
    _print(found, f"{checkpoint.name}, {options.clients} callers, times what ours find")
    return {
        "model": {"name": checkpoint.name, "bytes": checkpoint.n_bytes},
        "clients": options.clients,
        "recordings": options.recordings,
        "repeats": options.repeats,
        "tools": found,
    }


async def _ours(url: str, checkpoint: Checkpoint, sent: Sequence[Recording], n_clients: int) -> Bout:
    async with calling(url) as callers:
        return await callers.closed_loop(sent, checkpoint.name, n_clients)


def _compared(name: str, theirs: Sequence[tools.Finding], ours: Sequence[Bout]) -> dict[str, Any]:
    """What the row keeps of a tool."""
    return {
        "tool": name,
        "answered": sum(one.n_answered for one in theirs),
        "of": sum(len(one.answers) for one in ours),
        "per_s": spread.ratios([one.per_s for one in theirs], [one.per_s for one in ours]),
        "first_text": spread.ratios([one.first_text_s for one in theirs], [_first_text_s(one) for one in ours]),
    }


def _first_text_s(bout: Bout) -> float:
    """The median."""
    return spread.tails([one.first_text_s for one in bout.answers if one.first_text_s is not None])["p50"]


def _print(found: Sequence[Mapping[str, Any]], title: str) -> None:
    table = Table("tool", "throughput", "first text", "answered", title=title, title_justify="left")
    for one in found:
        table.add_row(
            one["tool"],
            spread.shown(one["per_s"]),
            spread.shown(one["first_text"]),
            f"{one['answered']} of {one['of']}",
        )
    Console(width=120).print(table)
