"""The section of RESULTS.md on the approximate layer search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row
from compress.prompt import LANGUAGES

FOUND: Final = (
    "searches",
    "same_layers",
    "of_layers",
    "same_searches",
    "mean_score_lost",
    "times_faster",
)  # what a row found; the rest are settings

_HEAD: Final = """\
### The approximate search

On several parts of the search split (`benchmarks/fast_search.py`): what it removes, what is left scores, and how many
times faster it is than the exact search.
"""


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.fast_search`, at least one.
    """
    return "\n".join([_HEAD, *map(_fast_searched, rows)])


def _fast_searched(row: Row) -> str:
    lines = [
        [
            LANGUAGES[one["language"]].name,
            *(cell for mode in ("exact", "fast") for cell in _ended(one[mode])),
            f"{one['times_faster']:.2f}",
        ]
        for one in row["searches"]
    ]
    title = f"{row['model']['name']}, {row['domain']}, {row['utterances']} utterances a search:\n"
    summary = (
        f"\n{row['same_layers']} of {row['of_layers']} layers are the same, {row['same_searches']} of {len(lines)} "
        f"searches altogether; {row['mean_score_lost']:.2f} of score are lost in the mean. It is "
        "{median:.2f} times faster ({low:.2f}–{high:.2f}).".format(**row["times_faster"])
    )
    columns = ["language", "exact", "score", "fast", "score", "times faster"]
    return "\n".join([title, table(columns, lines), summary, ""])


def _ended(search: dict[str, Any]) -> tuple[str, str]:
    return " ".join(map(str, search["removed"])), f"{search['score']:.2f}"
