"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, all others to the right."""
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(ratio: dict[str, float] | float) -> str:
    """A median with the lowest and the highest, or the quartiles, behind it; a ratio measured once alone."""
    return "{median:.2f} ({low:.2f}–{high:.2f})".format(**ratio) if isinstance(ratio, dict) else f"{ratio:.2f}"
