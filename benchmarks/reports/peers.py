"""The section of RESULTS.md on what a user would otherwise run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.peers import AGAINST, RESERVED_CORES
from benchmarks.reports.markdown import table
from benchmarks.rows import Row
from benchmarks.spread import shown

FOUND: Final = ("contestants", "http", "vllm_reserved_cores")  # what a row found; the rest are settings

_HEAD: Final = """\
## Peers

The same recordings through what a user would otherwise run, in turn on one machine, in fp32 (`benchmarks/peers.py`).
*Published* is transformers' `generate` on one recording after the other, padded to 30 s, with no text before all of it
is there; *batched* are eight at a time. *Sooner* is the first text of a recording of {seconds:g} s for a single caller;
*more* the throughput for {callers} callers. *Same* are texts equal to published's.
"""
_COSTS: Final = {
    "first_text_later_ms": "our server's first text comes {} ms later than the bare engine's",
    "throughput_of_bare": "it has {} times the bare engine's throughput",
    "throughput_of_vllm": "on vLLM it has {} times the throughput of vLLM's own server with our plugin",
    "first_text_of_vllm": "and its first text takes {} times as long",
}


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.peers`, at least one.
    """
    return "\n".join([_HEAD.format(**rows[-1]), *map(_measured, rows)])


def _measured(row: Row) -> str:
    columns = ["", "sooner than published", *(f"more than {name}" for name in AGAINST), "same"]
    times = f"{row['recordings']} recordings, {row['repeats']} rounds"
    title = f"{row['model']['name']}, {times}, on {row['machine']['cpu']}:\n"
    costs = ", ".join(_COSTS[name].format(shown(cost)) for name, cost in row["http"].items())
    lines = [_line(one, row["recordings"]) for one in row["contestants"]]
    notes = f"What HTTP costs: {costs}."
    if "throughput_of_vllm" in row["http"]:
        # nobody told it for the first rows
        reserved, cores = row.get("vllm_reserved_cores", RESERVED_CORES), row["machine"]["cores"]
        notes = f"vLLM's servers computed on {cores - reserved} of {cores} cores. {notes}"
    return "\n".join([title, table(columns, lines), f"\n{notes}\n"])


def _line(one: dict[str, Any], n: int) -> list[str]:
    # the first rows kept one round's texts, of n recordings
    sooner = one["sooner_than"].get(AGAINST[0])
    more = (shown(one["more_than"][name]) for name in AGAINST)
    return [one["name"], shown(sooner) if sooner else "–", *more, f"{one['same_texts']} of {one.get('texts', n)}"]
