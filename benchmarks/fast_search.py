"""`python -m benchmarks fast-search`: how often the approximate layer search chooses what the exact one chooses.

Both search several parts of the search split, in each language: the layers that are removed in the end are compared,
whatever their order, and the score of what is left, which is what counts when layers are worth about the same.  Which
one goes first alternates, so that neither always finds the machine warm.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from benchmarks.search import bench_of, timed
from compress import dataset
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import RecipeError
from compress.prompt import LANGUAGES
from compress.recipe import Data
from compress.recipe_stages import Prune
from compress.search.bench import Bench

_MODES: Final = ("exact", "fast")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--model", type=Path, default=POCKET, metavar="DIR", help="checkpoint (default: pocket)")
    parser.add_argument("--domain", choices=["talks", "daily", "phone"], default="daily", help="default: daily")
    parser.add_argument("--utterances", type=int, default=40, metavar="N", help="of each search (default: 40)")
    parser.add_argument("--parts", type=int, default=3, metavar="N", help="searches a language (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="layers to remove (default: 3)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints a table, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant.
    """
    if min(options.utterances, options.parts, options.rounds) < 1:
        raise RecipeError("--utterances, --parts and --rounds must be at least 1")
    transformers_logging.disable_progress_bar()
    checkpoint = Checkpoint.open(options.model)
    data = Data(source="pocket", domain=options.domain, n_search=options.utterances * options.parts)
    searches = []
    for language in LANGUAGES:
        utterances = dataset.load(data, language, "search").utterances
        for part in range(options.parts):
            chosen = utterances[part :: options.parts]
            bench = bench_of(checkpoint, language, chosen)
            searches.append(_compared(bench, options.rounds, fast_first=part % 2 == 1) | {"part": part})
    numbers = _numbers(searches)
    _print(searches, numbers, f"{checkpoint.name}, {options.domain}, {options.utterances} utterances a search")
    return {
        "model": {"name": checkpoint.name, "bytes": checkpoint.n_bytes},
        "domain": options.domain,
        "utterances": options.utterances,
        "rounds": options.rounds,
        "searches": searches,
        **numbers,
    }


def _compared(bench: Bench, n_rounds: int, *, fast_first: bool) -> dict[str, Any]:
    """One part of the split, searched both ways."""
    found: dict[str, Any] = {"language": bench.exam.language}
    took_s = {}
    for mode in reversed(_MODES) if fast_first else _MODES:
        one = timed(mode, bench, Prune(n_remove=n_rounds))
        took_s[mode] = one.done_s[-1]
        found[mode] = {"removed": [each.removed for each in one.rounds], "score": one.rounds[-1].chosen.score}
    return found | {"times_faster": round(took_s["exact"] / took_s["fast"], 2)}


def _numbers(searches: list[dict[str, Any]]) -> dict[str, Any]:
    same = [len({*one["exact"]["removed"]} & {*one["fast"]["removed"]}) for one in searches]
    ratios = [one["times_faster"] for one in searches]
    return {
        "same_layers": sum(same),
        "of_layers": sum(len(one["exact"]["removed"]) for one in searches),
        "same_searches": sum(n == len(one["exact"]["removed"]) for n, one in zip(same, searches, strict=True)),
        "mean_score_lost": round(statistics.mean(one["exact"]["score"] - one["fast"]["score"] for one in searches), 2),
        "times_faster": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
    }


def _print(searches: list[dict[str, Any]], numbers: dict[str, Any], title: str) -> None:
    table = Table("language", "part", "exact", "score", "fast", "score", "times faster", title=title)
    for one in searches:
        cells = [
            str(cell) for mode in _MODES for cell in (" ".join(map(str, one[mode]["removed"])), one[mode]["score"])
        ]
        table.add_row(one["language"], str(one["part"]), *cells, str(one["times_faster"]))
    console = Console(width=120)
    console.print(table)
    console.print(
        f"{numbers['same_layers']} of {numbers['of_layers']} layers are the same, "
        f"{numbers['same_searches']} of {len(searches)} searches altogether"
    )
