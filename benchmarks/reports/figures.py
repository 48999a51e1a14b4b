"""Figures of RESULTS.md, drawn from the rows: as SVG without a ground, read on light and dark pages alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.rows import Row
from compress.prompt import LANGUAGES
from compress.score import metrics
from compress.search import figure as search_figure
from compress.search.figure import INK
from compress.search.greedy import Evaluation, Round

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's, told apart by those who see red and green alike; of it what is read on white and on black
_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P")
# of the second setup, by the stage that made them
_STAGES: Final = ("baseline", "finetune", "prune", "recover", "qlora", "export")
_PANEL: Final = (5.0, 3.6)
_TOKENS: Final = 20  # of a sentence


def size_and_quality(papers: Mapping[tuple[str, str], Row], path: Path) -> bool:
    """BLEU over the bytes of each stage of the setups, a panel a language; what nothing smaller beats is joined.

    Args:
        papers: rows of `benchmarks.paper` by recipe and stage.
        path: of the SVG.

    Returns:
        Whether there was anything to draw.
    """
    found = {code: points for code in LANGUAGES if (points := _points(papers, code))}
    if not found:
        return False
    with _figure(path, len(found)) as panels:
        for axes, (code, points) in zip(panels, found.items(), strict=True):
            for number, (recipe, mine) in enumerate(_by_recipe(points).items()):
                scores = [one.score["value"] for one in mine]
                below = [one.score["value"] - one.score["low"] for one in mine]
                above = [one.score["high"] - one.score["value"] for one in mine]
                axes.errorbar(
                    [one.size_mb for one in mine],
                    scores,
                    yerr=[below, above],
                    fmt=_MARKERS[number],
                    color=_COLOURS[number],
                    label=recipe,
                    elinewidth=0.8,
                )
                for one in mine:
                    place = one.size_mb, one.score["value"]
                    axes.annotate(one.stage, place, (4, 4), textcoords="offset points", fontsize=7, color=INK)
            best = _front([(one.size_mb, one.score["value"]) for one in points])
            axes.step(*zip(*best, strict=True), where="post", color=INK, linewidth=0.8, linestyle=":")
            axes.set_title(LANGUAGES[code].name, color=INK)
            _name(axes, "MB on disk", "BLEU, 95 % interval")
    return True


def waits_and_callers(rows: Sequence[Row], path: Path) -> bool:
    """Times to the first text and throughput over the number of callers, both as multiples of one caller's.

    Args:
        rows: of `benchmarks.load`.
        path: of the SVG.

    Returns:
        Whether there was anything to draw.
    """
    if not rows:
        return False
    closed = rows[-1]["closed"]
    callers = [one["clients"] for one in closed]
    with _figure(path, 2) as (waits, throughput):
        base = closed[0]["first_text_s"]["p50"]
        for number, name in enumerate(("p50", "p95", "p99")):
            values = [one["first_text_s"][name] / base for one in closed]
            waits.plot(callers, values, f"{_MARKERS[number]}-", color=_COLOURS[number], label=name)
        _name(waits, "callers at once", "time to first text, times one caller's median")
        low, median, high = ([one["to_first"][key] for one in closed] for key in ("low", "median", "high"))
        throughput.fill_between(callers, low, high, color=_COLOURS[2], alpha=0.25, linewidth=0)
        throughput.plot(callers, median, "^-", color=_COLOURS[2], label="median, lowest and highest")
        _name(throughput, "callers at once", "throughput, times one caller's")
        for axes in (waits, throughput):
            axes.set_xscale("log", base=2)
            axes.set_xticks(callers, [str(one) for one in callers])
            axes.set_ylim(bottom=0)
    return True


def one_request(rows: Sequence[Row], path: Path) -> bool:
    """What each step takes of a request for a single sentence, and what it would take at the speed of light.

    Args:
        rows: of `benchmarks.speed_of_light`.
        path: of the SVG.

    Returns:
        Whether there was anything to draw.
    """
    if not rows:
        return False
    steps = {one["step"]: one for one in rows[-1]["steps"] if one["dtype"] == "float32"}
    times = {"decode audio": 1, "log-mel": 1, "encoder": 1, "prompt": 1, "decode, batch 1": _TOKENS}
    whole_us = sum(n * steps[name]["took_us"] for name, n in times.items())
    with _figure(path, 1) as (axes,):
        for number, key in enumerate(("bound_us", "took_us")):
            left = 0.0
            for step, (name, n) in enumerate(times.items()):
                share = 100 * n * steps[name][key] / whole_us
                label = name if n == 1 else f"{n} tokens"
                axes.barh(number, share, left=left, color=_COLOURS[step], label=label if number else None, height=0.6)
                left += share
        axes.set_yticks((0, 1), ("at the speed of light", "as measured"))
        _name(axes, "% of the time of one request", "")
    return True


def layers(rows: Sequence[Row], path: Path) -> bool:
    """What each layer is worth: scores without it, round after round of the exact search.

    Args:
        rows: of `benchmarks.search`.
        path: of the SVG.

    Returns:
        Whether there was anything to draw.
    """
    told = [row for row in rows if "candidates" in row["modes"].get("exact", {})]
    if not told:
        return False
    found = told[-1]["modes"]["exact"]
    rounds = [
        Round(
            tuple(found["removed"][:number]),
            tuple(
                Evaluation(layer, score, math.inf if bound is None else bound, ()) for layer, score, bound in candidates
            ),
            removed,
        )
        for number, (removed, candidates) in enumerate(zip(found["removed"], found["candidates"], strict=True))
    ]
    search_figure.draw(rounds, metrics(told[-1]["language"])[1], path)
    return True


@dataclass(frozen=True)
class _Point:
    """What a stage of a setup left: its size, and its BLEU with interval."""

    recipe: str
    stage: str
    size_mb: float
    score: Mapping[str, float]


def _points(papers: Mapping[tuple[str, str], Row], code: str) -> list[_Point]:
    found = []
    for setup in ("setup1", "setup2"):
        for stage in _STAGES:
            row = papers.get((f"pocket-{setup}-{code}", stage))
            if row is not None:
                (score,) = (one for one in row["scores"] if one["metric"] == "BLEU" and not one["group"])
                found.append(_Point(setup, stage, row["bytes"] / 1e6, score))
    return found


def _by_recipe(points: Sequence[_Point]) -> dict[str, list[_Point]]:
    names = dict.fromkeys(one.recipe for one in points)
    return {name: [one for one in points if one.recipe == name] for name in names}


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points that nothing as small is better than, by size."""
    best: list[tuple[float, float]] = []
    for size, score in sorted(points, key=lambda one: (one[0], -one[1])):
        if not best or score > best[-1][1]:
            best.append((size, score))
    return best


@contextmanager
def _figure(path: Path, n_panels: int) -> Iterator[Sequence[Axes]]:
    """Panels side by side, and the file in the end, the same from the same rows."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "kompakt", "svg.fonttype": "none"}):
        figure = Figure(figsize=(_PANEL[0] * max(1.6, n_panels), _PANEL[1]), layout="constrained")
        figure.patch.set_alpha(0)
        panels = figure.subplots(1, n_panels, squeeze=False)[0]
        yield panels
        for axes in panels:
            axes.set_facecolor("none")
            axes.tick_params(colors=INK)
            axes.grid(color=INK, alpha=0.25, linewidth=0.5)
            for spine in axes.spines.values():
                spine.set_visible(False)
            axes.legend(labelcolor=INK, frameon=False, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasSVG(figure)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _name(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
