"""The section of RESULTS.md on what callers of the server get."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row
from compress.prompt import LANGUAGES

FOUND: Final = ("models", "recordings", "asked_again", "languages")  # what a row found; the rest are settings

_HEAD: Final = """\
## What callers get, scored

The pocket corpus' report split and human recordings, through the real server (`benchmarks/quality.py`): scores with
95 % intervals; *p* is that of the paired bootstrap against the first model. A student was made for talks alone.
"""


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.quality`, at least one.
    """
    return "\n".join([_HEAD, *map(_measured, rows)])


def _measured(row: Row) -> str:
    parts = []
    for each in row["languages"]:
        metrics = list(dict.fromkeys(one["metric"] for model in each["models"] for one in model["scores"]))
        title = f"**{LANGUAGES[each['language']].name}**, {row['recordings']} recordings\n"
        parts += [title, table(["model", "of", "sentences", *metrics, "p"], list(_lines(each["models"]))), ""]
        parts += [*_signatures(each["models"]), *_differing(each["models"], row["asked_again"]), ""]
    return "\n".join(parts)


def _lines(models: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for model in models:
        chances = ", ".join(f"{one['p_value']:.3f}" for one in model["compared"])
        for group, found in itertools.groupby(model["scores"], key=lambda one: one["group"]):
            scores = list(found)
            yield [
                model["name"],
                group or "all",
                str(scores[0]["n"]),
                *("{value:.1f} ({low:.1f}–{high:.1f})".format(**one) for one in scores),
                "" if group else chances or "–",
            ]


def _signatures(models: Sequence[Mapping[str, Any]]) -> list[str]:
    scores = (one for model in models for one in model["scores"] if not one["group"])
    return list(dict.fromkeys(f"- {one['metric']}: `{one['signature']}`" for one in scores))


def _differing(models: Sequence[Mapping[str, Any]], n: int) -> list[str]:
    told = ", ".join(f"{model['name']} {model['differ']}" for model in models)
    return [f"- Texts that differed when they were asked for again, in another order, of {n}: {told}."]
