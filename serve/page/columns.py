"""Models side by side: what each made of a recording, how long it took, how big it is, how well it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from serve.page.cards import empty_card, figures, run_card
from serve.page.runs import Run
from serve.page.variants import Variant

_ALONE: Final = """
<p class="k-hint">Only one model is loaded. To compare several, start the server with all of them:
<code>python -m serve --model DIRECTORY --model DIRECTORY</code></p>
"""
_UNKNOWN: Final = "–"


@dataclass
class Column:
    """A model and its part of a comparison: what it waits for, until it has a run."""

    variant: Variant
    note: str
    run: Run | None = None


def columns(found: Sequence[Column], language: str) -> str:
    """All of them, with the scores for a target language."""
    sections = "".join(_section(column, language) for column in found)
    return f'{_ALONE if len(found) == 1 else ""}<div class="k-columns">{sections}</div>'


def _section(column: Column, language: str) -> str:
    name = escape(column.variant["id"])
    ended = column.run.ended if column.run is not None else None
    parts = (
        f"<h2>{name}</h2>",
        empty_card(column.note) if column.run is None else run_card(column.run, language),
        figures(ended.timings if ended is not None else None, with_audio=False),
        _facts(column.variant),
        _scores(column.variant, language),
    )
    return f'<section aria-label="{name}">{"".join(parts)}</section>'


def _facts(variant: Variant) -> str:
    layers = variant["layers"]
    facts = (
        ("Size on disk", _short(variant["bytes"], "B")),
        ("Parameters", _short(variant["parameters"])),
        ("Decoder layers", _UNKNOWN if layers is None else str(len(layers))),
        ("Format", variant["format"] or _UNKNOWN),
        ("Made from", variant["parent"] or _UNKNOWN),
    )
    rows = "".join(f"<div><dt>{label}</dt><dd>{escape(value)}</dd></div>" for label, value in facts)
    return f'<dl class="k-facts">{rows}</dl>'


def _scores(variant: Variant, language: str) -> str:
    """A table of the scores: a line for every group of sentences, a column for every metric."""
    scores = [score for score in variant["scores"] if score["language"] == language]
    if not scores:
        return '<div class="k-scores"><p>Scores: not measured.</p></div>'
    metrics = list(dict.fromkeys(score["metric"] for score in scores))
    rows = []
    for split in dict.fromkeys(score["split"] for score in scores):
        rows.append(_row(f"Scores, {split} split", [f"<th>{escape(metric)}</th>" for metric in metrics]))
        of_split = [score for score in scores if score["split"] == split]
        for group in dict.fromkeys(score["group"] for score in of_split):
            found = {score["metric"]: score for score in of_split if score["group"] == group}
            rows.append(_row(group or "all sentences", [_cell(found.get(metric)) for metric in metrics]))
    return f'<div class="k-scores"><table>{"".join(rows)}</table></div>'


def _row(name: str, cells: Sequence[str]) -> str:
    return f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>"


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return f"<td>{_UNKNOWN}</td>"
    details = f"{score['low']:.1f} to {score['high']:.1f}, {score['n']} sentences, {score['signature']}"
    if score["paper_parity"]:
        details = f"the layers were searched on these sentences; {details}"
    return f'<td title="{escape(details)}">{score["value"]:.1f}</td>'


def _short(number: int | None, unit: str = "") -> str:
    """Three digits and a decimal prefix: 39.6 MB, 19.8 million."""
    if number is None:
        return _UNKNOWN
    names = ("GB", "MB", "kB") if unit == "B" else ("billion", "million", "thousand")
    for power, name in zip((9, 6, 3), names, strict=True):
        if number >= 10**power:
            return f"{number / 10**power:#.3g} {name}"
    return f"{number} {unit}".strip()
