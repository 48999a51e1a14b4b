"""The section of RESULTS.md on several clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row
from benchmarks.spread import shown

FOUND: Final = ("clients", "repeats")  # what a row found; the rest are settings

_HEAD: Final = """\
## Several clients at once

Clips per second that the embedded engine translates for several clients at once, over those of one client, with the
same texts (`benchmarks/batching.py`): medians, and quartiles in brackets. *First text* is what a caller waits for it.
"""


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.batching`, at least one.
    """
    return "\n".join([_HEAD, *map(_batched, rows)])


def _batched(row: Row) -> str:
    lines = [
        [
            str(one["clients"]),
            shown(one["ratio"]),
            f"{one['clips_per_s']:.2f}",
            *(f"{one['first_text_s'][name]:.3f} s" for name in ("p50", "p95")),
        ]
        for one in row["clients"]
    ]
    title = f"{row['model']['name']} on {row['device']}, {row['requests']} requests, {row['repeats']} repeats:\n"
    columns = ["clients", "times the throughput of one", "clips / s", "first text, p50", "p95"]
    return "\n".join([title, table(columns, lines), ""])
