"""A picture of a layer search: every candidate's score by layer and round, the layers that were removed marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from compress.search.greedy import Round

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

# of one cell, in inches
_CELL: Final = (0.62, 0.42)
_COLOURS: Final = "cividis"  # the same to those who see red and green alike
# Matplotlib's defaults are black on nothing, which a dark page swallows; this grey is read on white and on black.
INK: Final = "#808080"
_GONE: Final = "#80808026"


def draw(rounds: Sequence[Round], metric: str, path: Path) -> None:
    """Writes the picture as SVG; it has no ground of its own and is read on a light and on a dark page.

    A row is a round, a column a layer of the whole model, a cell the score without that layer.  The layer that went is
    framed; a candidate that was given up shows what it could have reached at most (≤), hatched; a layer that was gone
    already, or was no candidate, is empty.

    Args:
        rounds: of the search, in order.
        metric: what the scores are of, such as chrF++.
        path: of the SVG; replaced when the new one is whole.

    Raises:
        ValueError: no rounds.
    """
    if not rounds:
        raise ValueError("a search without rounds has no picture")
    # what pyplot would add, windows and state, no file needs
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    first = rounds[0].evaluations
    lowest, highest = min(one.layer for one in first), max(one.layer for one in first)
    n_columns = highest - lowest + 1
    values = np.full((len(rounds), n_columns), np.nan)
    for row, one in enumerate(rounds):
        for found in one.evaluations:
            values[row, found.layer - lowest] = _value(found.score, found.bound)
    # identifiers that would differ from run to run, and text that stays text
    with rc_context({"svg.hashsalt": "kompakt", "svg.fonttype": "none"}):
        figure = Figure(figsize=(n_columns * _CELL[0] + 2.2, len(rounds) * _CELL[1] + 1.5), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        edges = np.arange(lowest, highest + 2) - 0.5, np.arange(len(rounds) + 1) + 0.5
        mesh = axes.pcolormesh(*edges, np.ma.masked_invalid(values), cmap=_COLOURS)
        _label(axes, rounds, mesh)
        _style(axes, lowest, highest, len(rounds))
        bar = figure.colorbar(mesh, ax=axes, label=metric)
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=INK)
        bar.ax.yaxis.label.set_color(INK)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp")
        FigureCanvasSVG(figure)
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    temporary.replace(path)


def _value(score: float | None, bound: float) -> float:
    """What a cell is coloured by: nothing where a candidate was given up before it had a bound."""
    value = bound if score is None else score
    return value if np.isfinite(value) else np.nan


def _label(axes: Axes, rounds: Sequence[Round], mesh: ScalarMappable) -> None:
    """Writes every score into its cell, and frames what was removed."""
    from matplotlib.patches import Rectangle

    for number, one in enumerate(rounds, 1):
        for found in one.evaluations:
            value = _value(found.score, found.bound)
            given_up, chosen = found.score is None, found.layer == one.removed
            corner = found.layer - 0.5, number - 0.5
            light = np.isfinite(value) and sum(mesh.to_rgba(np.array(value))[:3]) / 3 > 0.5
            ink = "black" if light else "white"
            if given_up:
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor=f"{INK}66", linewidth=0))
            if chosen:
                inner = corner[0] + 0.05, corner[1] + 0.05
                axes.add_patch(Rectangle(inner, 0.9, 0.9, fill=False, edgecolor=ink, linewidth=2))
            text = f"{'≤ ' if given_up else ''}{value:.1f}" if np.isfinite(value) else "–"
            weight = "bold" if chosen else "normal"
            axes.text(found.layer, number, text, ha="center", va="center", fontsize=8, color=ink, weight=weight)


def _style(axes: Axes, lowest: int, highest: int, n_rounds: int) -> None:
    axes.set_facecolor(_GONE)
    axes.set_xticks(range(lowest, highest + 1))
    axes.set_yticks(range(1, n_rounds + 1))
    axes.invert_yaxis()
    axes.set_xlabel("layer left out", color=INK)
    axes.set_ylabel("round", color=INK)
    axes.tick_params(colors=INK, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
