"""The section of RESULTS.md on what other people's benchmarks find of the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row
from benchmarks.spread import shown

FOUND: Final = ("tools",)  # what a row found; the rest are settings

_HEAD: Final = """\
## Other people's benchmarks

What they find with the same recordings from the same server, in turn with our callers, over what those find
(`benchmarks/cross_check.py`): medians and quartiles.
"""


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.cross_check`, at least one.
    """
    return "\n".join([_HEAD, *map(_measured, rows)])


def _measured(row: Row) -> str:
    times = f"{row['recordings']} recordings, {row['clients']} callers, {row['repeats']} repeats"
    title = f"{row['model']['name']}, {times}:\n"
    lines = [
        [one["tool"], shown(one["per_s"]), shown(one["first_text"]), f"{one['answered']} of {one['of']}"]
        for one in row["tools"]
    ]
    return "\n".join([title, table(["", "throughput", "first text", "answered"], lines), ""])
