"""The paper's tables beside ours, in Markdown: figures, and how far the two agree on what is better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

from benchmarks.paper_tables import Language, Paper, PaperTable
from benchmarks.paper_tables import Row as PaperRow
from benchmarks.reports.markdown import table
from benchmarks.rows import Row

_LANGUAGES: Final[dict[Language, str]] = {"de": "German", "zh": "Chinese"}
_TEACHER: Final = "full fine-tuning"
_MISSING: Final = "–"

Known = Mapping[tuple[str, str], Row]

_HEAD: Final = """\
## The paper's tables

Left the paper's figures, right the pocket model's, by the recipes named `pocket-…` in `compress/recipes`. The paper
fine-tunes Qwen2-Audio-7B-Instruct on conference talks, and searches for layers on the very utterances it reports on;
the pocket model, 400 times smaller, hears synthetic talks, and reports on utterances that no search has seen: as many
by voices that it was trained on as by others. The figures of the two say nothing about each other. What can be
compared is which row is better than which: below each table stands how many pairs of rows are in the same order.

Brackets hold 95 % bootstrap intervals. *Parameters* are weights of the model, *stored* the elements in its files
without an adapter (the paper's "Params" of a 4-bit model), *MB* all tensors with it. {comet}
"""
_NO_COMET: Final = "COMET is the paper's alone: it\nneeds weights that come with no package."
_COMET: Final = "Our COMET\nis that of the model which its signature names."


def render(paper: Paper, known: Known) -> str:
    """All tables.

    Args:
        paper: its figures.
        known: our last rows by recipe and stage.
    """
    judged = any(_overall(row, "COMET") for row in known.values())
    head = _HEAD.format(comet=_COMET if judged else _NO_COMET)
    sections = [head, *(_section(paper, one, known) for one in paper.tables), _signatures(known)]
    return "\n".join(section for section in sections if section)


def _section(paper: Paper, one: PaperTable, known: Known) -> str:
    parts = [f"### {one.name}: {one.title}\n"]
    if one.note:
        parts.append(f"{one.note}\n")
    for language, name in _LANGUAGES.items():
        parts += [f"**{name}**\n", _table(paper, one, language, known), ""]
        parts += [f"{sentence}\n" for sentence in _sentences(paper, one, language, known)]
    return "\n".join(parts)


def _table(paper: Paper, one: PaperTable, language: Language, known: Known) -> str:
    metrics = paper.metrics[language]
    sizes = [name for name in ("params", "storage") if any(getattr(row, name) for row in one.rows)]
    headings = [*metrics, *({"params": "B", "storage": "GB"}[name] for name in sizes)]
    ours = _metrics(paper, one, language, known)
    columns = ["", *(f"paper's {heading}" for heading in headings), *(f"our {m}" for m in ours)]
    lines = []
    for row in one.rows:
        paper_cells = [f"{value:.2f}" for value in row.figures(language) or ()] or [_MISSING] * len(metrics)
        paper_cells += [f"{value:.2f}" if (value := getattr(row, name)) else _MISSING for name in sizes]
        lines.append([row.row, *paper_cells, *_ours(row, language, ours, known)])
    return table([*columns, "parameters", "stored", "MB"], lines)


def _ours(row: PaperRow, language: Language, metrics: Sequence[str], known: Known) -> list[str]:
    found = _found(row, language, known)
    if found is None:
        return [row.reason or "not run yet", *[_MISSING] * (len(metrics) + 2)]
    scores = [_overall(found, metric) for metric in metrics]
    cells = [f"{one['value']:.2f} ({one['low']:.1f}–{one['high']:.1f})" if one else _MISSING for one in scores]
    return [*cells, f"{found['parameters']:,}", f"{found['stored_elements']:,}", f"{found['bytes'] / 1e6:.1f}"]


def _metrics(paper: Paper, one: PaperTable, language: Language, known: Known) -> list[str]:
    """Those of the paper's metrics by which any of our rows of a table is scored, and all that need no weights."""
    rows = [found for row in one.rows if (found := _found(row, language, known))]
    return [
        metric for metric in paper.metrics[language] if metric != "COMET" or any(_overall(row, metric) for row in rows)
    ]


def _sentences(paper: Paper, one: PaperTable, language: Language, known: Known) -> Iterator[str]:
    for place, metric in enumerate(_metrics(paper, one, language, known)):
        yield from _order(one, language, known, metric, place)
    yield from _retained(paper, one, language, known)
    for row in one.rows:
        yield from _searched(row, language, known)


def _order(one: PaperTable, language: Language, known: Known, metric: str, place: int) -> Iterator[str]:
    """How many pairs of rows are in the paper's order, by one metric."""
    same: list[bool] = []  # of each, whether the intervals are apart
    other: list[str] = []
    for left, right in combinations(one.rows, 2):
        papers, ours = (
            (left.figures(language), right.figures(language)),
            [_found(row, language, known) for row in (left, right)],
        )
        if papers[0] is None or papers[1] is None or ours[0] is None or ours[1] is None:
            continue
        a, b = (_overall(row, metric) for row in ours if row)
        difference = papers[0][place] - papers[1][place]
        if not difference or not a or not b:
            continue
        apart = a["low"] > b["high"] or b["low"] > a["high"]
        if difference * (a["value"] - b["value"]) > 0:
            same.append(apart)
        else:
            other.append(f"{left.row} / {right.row}" + (" (intervals apart)" if apart else ""))
    if n := len(same) + len(other):
        text = f"By {metric}, {len(same)} of {n} {'pair' if n == 1 else 'pairs'} of rows"
        text += f" {'is' if n == 1 else 'are'} in the paper's order, {sum(same)} with intervals apart"
        yield text + (f"; in the other: {', '.join(other)}." if other else ".")


def _retained(paper: Paper, one: PaperTable, language: Language, known: Known) -> Iterator[str]:
    """What the last row keeps of the teacher's scores, where the table has a teacher."""
    teacher = next((row for row in one.rows if row.row == _TEACHER), None)
    last = one.rows[-1]
    if teacher is None:
        return
    rows = [_found(row, language, known) for row in (last, teacher)]
    figures = [row.figures(language) for row in (last, teacher)]
    if rows[0] is None or rows[1] is None or figures[0] is None or figures[1] is None:
        return
    ours, papers, metrics = [], [], []
    for place, metric in enumerate(paper.metrics[language]):
        kept, whole = _overall(rows[0], metric), _overall(rows[1], metric)
        if kept and whole and whole["value"] > 0:  # of COMET there may be none, or less than nothing
            ours.append(kept["value"] / whole["value"])
            papers.append(figures[0][place] / figures[1][place])
            metrics.append(metric)
    mean, theirs = (100 * sum(shares) / len(shares) for shares in (ours, papers))
    yield (
        f"*{last.row}* keeps {mean:.1f} % of what {_TEACHER} reaches, the mean of {_listed(metrics)}; "
        f"in the paper {theirs:.1f} %."
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]])


def _searched(row: PaperRow, language: Language, known: Known) -> Iterator[str]:
    """Which layers went, and with what score on the search split."""
    found = _found(row, language, known)
    if found is None or not found.get("removed"):
        return
    text = f"*{row.row}*: layers removed {', '.join(map(str, found['removed']))}"
    if search := found.get("search"):
        scores = ", ".join(f"{score:.2f}" for score in search["scores"])
        split = "the report split (paper parity)" if found["paper_parity"] else "the search split"
        text += f"; {search['metric']} on {split} after each: {scores}"
    if papers := row.layers.get(language):
        text += f"; the paper's: {', '.join(map(str, papers))}"
    yield f"{text}."


def _signatures(known: Known) -> str:
    """How our scores were computed, each once."""
    lines = dict.fromkeys(
        f"- {one['metric']}, {_LANGUAGES[one['language']]}, {one['n']} sentences: `{one['signature']}`"
        for row in known.values()
        for one in row["scores"]
        if not one["group"]
    )
    return "\n".join(["Signatures of our scores, all of the report split:\n", *sorted(lines), ""]) if lines else ""


def _found(row: PaperRow, language: Language, known: Known) -> Row | None:
    place = row.place(language)
    return known.get(place) if place else None


def _overall(row: Row, metric: str) -> dict[str, Any] | None:
    """The score over the whole split; None where it was not scored by that."""
    return next((one for one in row["scores"] if one["metric"] == metric and not one["group"]), None)
