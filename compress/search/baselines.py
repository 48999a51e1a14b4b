"""Layers chosen without a search, to compare with: the middle ones, and those of least block influence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compress.errors import RecipeError
from compress.search.greedy import candidates


def middle(n_layers: int, n_remove: int) -> tuple[int, ...]:
    """A block in the middle (the paper's section 4.3): 12 to 19 for 8 of 32.

    Raises:
        RecipeError: as many layers as there are, or more.
    """
    if n_remove >= n_layers:
        raise RecipeError(f"cannot remove {n_remove} of {n_layers} layers")
    start = (n_layers - n_remove) // 2
    return tuple(range(start, start + n_remove))


def least_influence(influence: Mapping[int, float], n_remove: int, protected: Sequence[int]) -> tuple[int, ...]:
    """The layers that change their input least (Men et al. 2024, ShortGPT), least first.

    Args:
        influence: 1 - cos between a layer's input and output, summed over the same tokens, by layer.
        n_remove: how many to choose.
        protected: layers that are never chosen; negative ones count from the end.

    Raises:
        RecipeError: more removals than candidates.
    """
    open_ = candidates(len(influence), protected)
    if n_remove > len(open_):
        raise RecipeError(f"cannot remove {n_remove} layers: {len(open_)} of {len(influence)} are candidates")
    return tuple(sorted(open_, key=lambda layer: (influence[layer], layer))[:n_remove])
