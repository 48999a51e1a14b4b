"""The section of RESULTS.md on what one caller waits for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.latency import MEASURED
from benchmarks.reports.markdown import table
from benchmarks.rows import Row
from benchmarks.spread import shown
from compress.prompt import LANGUAGES

FOUND: Final = ("forms", "lengths")  # what a row found; the rest are settings

_HEAD: Final = """\
## What one caller waits for

One caller of one server, by length of the recording and form of the model (`benchmarks/latency.py`): times over those
of the first form with the same recording, medians and quartiles. *Tail* is the 95th and the 99th percentile over the
median; *real-time factor* the time to the end over the recording's length. The pruned models were not trained again:
what they say has a length of its own, so their time to the whole text says nothing.
"""


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.latency`, at least one.
    """
    return "\n".join([_HEAD, *map(_measured, rows)])


def _measured(row: Row) -> str:
    forms = ", ".join(f"{one['name']} {one['bytes'] / 1e6:.1f} MB" for one in row["forms"])
    title = f"Engine {row['engine']}, into {LANGUAGES[row['language']].name}; {forms}:\n"
    columns = ["recordings", "form", *MEASURED.values(), "first text's tail", "real-time factor"]
    return "\n".join([title, table(columns, list(_lines(row))), ""])


def _lines(row: Row) -> Iterator[list[str]]:
    for length in row["lengths"]:
        for one in length["forms"]:
            yield [
                f"{length['recordings']} of {length['seconds']:g} s",
                one["form"],
                *(shown(one["to_first"][key]) if key in one["to_first"] else "–" for key in MEASURED),
                _tail(one.get("first_text_s")),
                f"{one['real_time_factor']['p50']:.3f}",
            ]


def _tail(times: Mapping[str, Any] | None) -> str:
    return "–" if times is None else ", ".join(f"{times[name] / times['p50']:.2f}" for name in ("p95", "p99"))
