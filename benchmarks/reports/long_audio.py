"""The section of RESULTS.md on long recordings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row
from compress.prompt import LANGUAGES

FOUND: Final = ("before_mb", "recordings")  # what a row found; the rest are settings

_HEAD: Final = """\
## Long recordings

One request each, streamed by the real server (`benchmarks/long_audio.py`). *Found* are the stretches of speech that it
cut the sentences into; *growth* is that of its resident memory from the first quarter of the time to the last.
"""
_COLUMNS: Final = (
    "recording",
    "sentences",
    "found",
    "first text",
    "whole text",
    "real-time factor",
    "memory",
    "growth",
)


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.long_audio`, at least one.
    """
    return "\n".join([_HEAD, *map(_measured, rows)])


def _measured(row: Row) -> str:
    lines = [
        [
            f"{one['minutes']:g} min, {one['bytes'] / 1e6:.1f} MB",
            f"{one['sentences']:,}",
            f"{one['stretches']:,}",
            f"{one['first_text_s']:.2f} s",
            f"{one['total_s']:.0f} s",
            f"{one['real_time_factor']:.3f}",
            f"{one['highest_mb']:.0f} MB",
            f"{one['growth_mb']:+.1f} MB",
        ]
        for one in row["recordings"]
    ]
    title = f"{row['model']['name']} into {LANGUAGES[row['language']].name}, {row['before_mb']:.0f} MB beforehand:\n"
    return "\n".join([title, table(list(_COLUMNS), lines), ""])
