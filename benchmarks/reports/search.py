"""The section of RESULTS.md on the layer search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row
from benchmarks.search import COMPARED
from benchmarks.spread import shown
from compress.prompt import LANGUAGES

FOUND: Final = ("modes", "repeats")  # what a row found; the rest are settings

_HEAD: Final = """\
## The layer search

All but `fast` choose the same layers with the same scores, as `benchmarks/search.py` explains; given is how many times
faster one is than another in the same process, over the rounds that both have run: the median of several repeats, the
lowest and the highest. The naive search is run once. *Decoded* counts translations.
"""


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.search`, at least one.
    """
    return "\n".join([_HEAD, *map(_searched, rows)])


def _searched(row: Row) -> str:
    modes = row["modes"]
    others = [name for name in COMPARED if name in modes]
    lines = [
        [
            mode,
            " ".join(map(str, one["removed"])),
            f"{one['scores'][-1]:.2f}",
            f"{one['decoded']:,} of {one['of']:,}",
            *("1" if other == mode else shown(one["times_faster_than"][other]) for other in others),
        ]
        for mode, one in modes.items()
    ]
    title = f"{row['model']['name']}, {_domain(row)}, {row['utterances']} utterances:\n"
    columns = ["search", "removed", "score", "decoded", *(f"times faster than {other}" for other in others)]
    return "\n".join([title, table(columns, lines), ""])


def _domain(row: Row) -> str:
    return f"{row['domain']} into {LANGUAGES[row['language']].name}"
