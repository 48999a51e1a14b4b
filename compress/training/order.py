"""In which order training sees its examples: from the seed alone, however many processes there are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from compress.recipe_stages import Optimisation

# Batches are cut from the examples of so many, sorted by length: more pads less and mixes less.
_BATCHES_PER_POOL: Final = 16


class Order:
    """Which examples this process sees in which forward pass, over all epochs.

    A step's examples are dealt out to its forward passes on all processes.  One that gets none sees an example whose
    loss is left out, so that every process takes every step and no example counts twice.
    """

    def __init__(self, lengths: Sequence[int], settings: Optimisation, index: int = 0, count: int = 1) -> None:
        """Plans the training.

        Args:
            lengths: of the examples, in tokens.
            settings: epochs, batch size, accumulation and seed.
            index: this process' number.
            count: how many processes there are.
        """
        self._lengths = lengths
        self._settings = settings
        self._index = index
        self._count = count

    def __len__(self) -> int:
        """Forward passes of this process."""
        n_steps = math.ceil(len(self._lengths) / self._settings.batch_size)
        return self._settings.epochs * n_steps * self._settings.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        """Yields numbers for `Examples`, one list a forward pass."""
        passes = self._settings.accumulation
        for epoch in range(self._settings.epochs):
            for batch in epoch_batches(self._lengths, self._settings.batch_size, self._settings.seed, epoch):
                for turn in range(passes):
                    mine = batch[turn * self._count + self._index :: passes * self._count]
                    yield mine or [-1 - batch[0]]


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """One epoch of example numbers in batches of similar length; all but one are full."""
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths)).tolist()
    n_batches = math.ceil(len(lengths) / batch_size)
    # of a small set, pools are small too, or every epoch would have the same batches
    pool_size = batch_size * min(_BATCHES_PER_POOL, max(1, n_batches // 4))
    batches: list[list[int]] = []
    for start in range(0, len(order), pool_size):
        pool = sorted(order[start : start + pool_size], key=lengths.__getitem__)
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]
