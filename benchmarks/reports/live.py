"""The section of RESULTS.md on live translation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row
from compress.prompt import LANGUAGES

FOUND: Final = ("talks", "crowds", "sentences")  # what a row found; the rest are settings

_HEAD: Final = """\
## Live translation

Talks of report clips with pauses, translated while they are spoken (`benchmarks/live.py`): BLEU and chrF with 95 %
intervals, and how many seconds a word lags behind an ideal interpreter, by what had been heard when it was sent (CU)
and by when it came (CA). *Offline* is every sentence by itself, cut where it really begins and ends.
"""
_CROWD: Final = """\
How late text comes after the speech that it follows from, when several people speak at once for a minute. They fit as
long as it does not come later and later.
"""
_LAGS: Final = {
    "yaal_cu_s": "LongYAAL CU",
    "laal_cu_s": "LongLAAL CU",
    "yaal_ca_s": "LongYAAL CA",
    "laal_ca_s": "LongLAAL CA",
}


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.live`, at least one.
    """
    return "\n".join([_HEAD, *map(_measured, rows)])


def _measured(row: Row) -> str:
    title = (
        f"{row['model']['name']}, talks of {row['minutes']:g} minutes, hypotheses every {row['again_s']:g} s, "
        f"{row['scorer']}:\n"
    )
    columns = ["talk", "policy", "BLEU", "chrF", *(f"{name} (s)" for name in _LAGS.values())]
    signatures = dict.fromkeys(
        f"- {score['metric']}, {LANGUAGES[score['language']].name}, {score['n']} sentences: `{score['signature']}`"
        for talk in row["talks"]
        for score in talk["scores"]
    )
    crowd = table(
        ["policy", "speakers", "median lag (s)", "95th percentile (s)", "growth (s)", "they fit"],
        [
            [
                one["policy"],
                str(one["speakers"]),
                *(f"{value:.2f}" for value in (one["lag_s"]["p50"], one["lag_s"]["p95"], one["growth_s"])),
                "yes" if one["fits"] else "no",
            ]
            for one in row["crowds"]
        ],
    )
    lines = [title, table(columns, [_talk(one) for one in row["talks"]]), "", *signatures, "", _CROWD, crowd, ""]
    return "\n".join(lines)


def _talk(talk: dict[str, Any]) -> list[str]:
    how = "" if talk["policy"] == "offline" else f", {talk['how']}"
    return [
        LANGUAGES[talk["language"]].name,
        talk["policy"] + how,
        *("{value:.1f} ({low:.1f}–{high:.1f})".format(**score) for score in talk["scores"]),
        *("" if name not in talk else f"{talk[name]:.2f}" for name in _LAGS),
    ]
