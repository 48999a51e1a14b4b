"""The section of RESULTS.md on vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row
from benchmarks.spread import shown

FOUND: Final = ("checkpoints", "own_class")  # what a row found; the rest are settings

_HEAD: Final = """\
## vLLM

Translations of the same clips by vLLM and by the embedded engine, both in fp32 on a CPU, but for nf4, which vLLM
computes in bf16: *same* are those with equal text and number of tokens (`benchmarks/parity.py`).
"""


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.parity`, at least one.
    """
    return "\n".join([_HEAD, *map(_paired, rows)])


def _paired(row: Row) -> str:
    lines = [
        [one["name"], f"{one['bytes'] / 1e6:.1f}", f"{one['same']} of {one['translations']}"]
        for one in row["checkpoints"]
    ]
    own = row["own_class"]
    waits = (
        "\nvLLM's own class of the model encodes the padding: the first text comes "
        f"{shown(own['first_text'])} times later, the last {shown(own['total'])} times; "
        f"{own['same']} of {own['of']} texts are the same."
        if own
        else ""
    )
    title = f"{row['clips']} clips, domain {row['domain']}:\n"
    return "\n".join([title, table(["checkpoint", "MB", "same"], lines), waits, ""])
