"""The section of RESULTS.md on servers that die."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.replicas import OUTCOMES
from benchmarks.reports.markdown import table
from benchmarks.rows import Row

FOUND: Final = ("runs",)  # what a row found; the rest are settings

_HEAD: Final = """\
## A server killed under load

One of several servers behind a front gets SIGKILL (`benchmarks/replicas.py`). *Broken off* are texts that had begun,
whose callers were told so; *lost* are errors where none had.
"""


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.replicas`, at least one.
    """
    return "\n".join([_HEAD, *map(_measured, rows)])


def _measured(row: Row) -> str:
    title = f"{row['model']['name']}, {row['servers']} servers, {row['callers']} callers, {row['calls']} calls a run:\n"
    lines = [[str(number), *(str(one[name]) for name in OUTCOMES)] for number, one in enumerate(row["runs"], 1)]
    return "\n".join([title, table(["run", *OUTCOMES], lines), ""])
