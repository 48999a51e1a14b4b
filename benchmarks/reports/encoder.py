"""The section of RESULTS.md on the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row

FOUND: Final = ("clips", "repeats")  # what a row found; the rest are settings

_HEAD: Final = """\
## The encoder on valid frames

How many times faster the encoder is without the padding to 30 s, with the same result (`benchmarks/encoder.py`):
medians, and quartiles in brackets. *Work* is the ratio of multiply-adds.
"""


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.encoder`, at least one.
    """
    return "\n".join([_HEAD, *map(_encoded, rows)])


def _encoded(row: Row) -> str:
    lines = [
        [
            f"{clip['clip_s']:g} s",
            f"{clip['work']:.2f}",
            *("{ratio:.2f} ({low:.2f}–{high:.2f})".format(**clip[stage]) for stage in ("encoder", "speech")),
            f"{clip['max_difference']:.0e}",
        ]
        for clip in row["clips"]
    ]
    title = f"{row['model']['name']} on {row['device']}, {row['dtype']}, {row['repeats']} repeats:\n"
    return "\n".join([title, table(["clip", "work", "encoder", "with mel", "largest difference"], lines), ""])
