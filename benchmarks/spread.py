"""Numbers of many repeats in few: what a result row keeps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

Spread = dict[str, float]

_DIGITS: Final = 4
TAILS: Final[Mapping[str, float]] = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def quartiles(values: Sequence[float], decimals: int = 3) -> Spread:
    """Median, and the quartiles as `low` and `high`, which one repeat that was disturbed does not move."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    found = {"median": median, "low": low, "high": high}
    return {name: round(float(value), decimals) for name, value in found.items()}


def ratios(of: Sequence[float], to: Sequence[float]) -> Spread:
    """Quartiles of how many times one is the other, repeat by repeat."""
    return quartiles([one / other for one, other in zip(of, to, strict=True)])


def tails(values: Sequence[float]) -> Spread:
    """50th, 95th and 99th percentile; of fewer than a hundred values the last is nearly the largest."""
    found = np.quantile(values, list(TAILS.values()))
    return {name: round(float(value), _DIGITS) for name, value in zip(TAILS, found, strict=True)}


def shown(ratio: Mapping[str, float] | float) -> str:
    """A median with the lowest and the highest, or the quartiles, behind it; a ratio measured once alone."""
    return "{median:.2f} ({low:.2f}–{high:.2f})".format(**ratio) if isinstance(ratio, Mapping) else f"{ratio:.2f}"
