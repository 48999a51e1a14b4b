"""The section of RESULTS.md on many callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row
from benchmarks.spread import shown

FOUND: Final = ("closed", "formats", "open")  # what a row found; the rest are settings

_HEAD: Final = """\
## Many callers

Of one server (`benchmarks/load.py`). In a closed loop each caller waits for an answer before the next call; in an open
one calls come at random, as a share of the highest throughput of the closed loop, and the server refuses what it has
no place for. *RTFx* are seconds of audio translated a second. *Goodput* is the share of calls answered with the first
text within {first_text_s:g} s and the whole of it within {lengths:g} times the recording's length.
"""


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.load`, at least one.
    """
    return "\n".join([_HEAD.format(**rows[-1]["objective"]), *map(_measured, rows)])


def _measured(row: Row) -> str:
    title = f"{row['model']['name']}, {row['recordings']} recordings, {row['repeats']} repeats"
    closed = table(
        ["callers", "times the throughput of one", "RTFx", "first text, p50, p95, p99", "goodput"],
        [[str(one["clients"]), shown(one["to_first"]), shown(one["rtfx"]), *_waits(one)] for one in row["closed"]],
    )
    opened = table(
        ["calls", "refused", "RTFx", "first text, p50, p95, p99", "goodput"],
        [
            [f"{one['share']:.0%}", f"{one['refused']} of {one['calls']}", shown(one["rtfx"]), *_waits(one)]
            for one in row["open"]
        ],
    )
    formats = row["formats"]
    mp3 = (
        f"48 kHz stereo mp3 from {formats['clients']} callers: {shown(formats['mp3_to_wav'])} times the throughput of "
        "16 kHz wav."
    )
    return "\n".join(
        [
            f"{title}, closed loop:\n",
            closed,
            f"\n{mp3}\n",
            f"{title}, open loop, {row['places']} places:\n",
            opened,
            "",
        ]
    )


def _waits(one: Mapping[str, Any]) -> tuple[str, str]:
    return ", ".join(f"{value:.2f}" for value in one["first_text_s"].values()) + " s", f"{one['goodput']:.0%}"
