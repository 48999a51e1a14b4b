"""The section of RESULTS.md on how near the steps of a request come to what the machine can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row

FOUND: Final = ("roofs", "steps", "repeats")  # what a row found; the rest are settings

_HEAD: Final = """\
## The speed of light

What each step of one request has to compute and to move, and which share it reaches of what the machine can do: the
longer of bytes over measured bandwidth and operations over the measured rate of matrix products, over the time that
the step takes (`benchmarks/speed_of_light.py`): medians, and quartiles in brackets. *Limit* is which of the two
decides.
"""


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.speed_of_light`, at least one.
    """
    return "\n".join([_HEAD, *map(_measured, rows)])


def _measured(row: Row) -> str:
    lines = [
        [
            one["step"],
            one["dtype"],
            f"{one['operations'] / 1e6:,.1f}",
            f"{one['bytes'] / 1e6:,.1f}",
            one["limit"],
            "{median:.1%} ({low:.1%}–{high:.1%})".format(**one["share"]),
        ]
        for one in row["steps"]
    ]
    rates = " and ".join(f"{rate:,.0f} GFLOP/s in {name}" for name, rate in row["roofs"]["gflop_per_s"].items())
    title = (
        f"{row['model']['name']} on {row['device']}, a clip of {row['clip_s']:g} s, {row['threads']} threads, which "
        f"move {row['roofs']['memory_gb_per_s']:.1f} GB/s of memory and compute {rates}:\n"
    )
    return "\n".join([title, table(["step", "dtype", "MFLOP", "MB", "limit", "share"], lines), ""])
