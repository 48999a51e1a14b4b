"""Every example once an epoch, whatever the batches are dealt out to."""

from __future__ import annotations

import numpy as np
import pytest

from compress.recipe_stages import Optimisation
from compress.training.order import Order, epoch_batches

LENGTHS = np.random.default_rng(0).integers(20, 300, 103).tolist()


def settings(**changes: int) -> Optimisation:
    return Optimisation.model_validate({"epochs": 2, "batch_size": 8} | changes)


@pytest.mark.parametrize("n_examples", [1, 3, 4, 8, 103])
def test_an_epoch_holds_every_example_once_in_full_batches_but_one(n_examples: int) -> None:
    batches = epoch_batches(LENGTHS[:n_examples], 4, seed=3, epoch=1)
    assert sorted(i for batch in batches for i in batch) == list(range(n_examples))
    assert sorted(map(len, batches))[1:] == [4] * (len(batches) - 1)


def test_batches_hold_examples_of_similar_length() -> None:
    lengths = np.random.default_rng(1).integers(20, 300, 4000).tolist()

    def padded(batches: list[list[int]]) -> int:
        return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)

    shuffled = np.random.default_rng(2).permutation(4000).reshape(-1, 4).tolist()
    grouped = epoch_batches(lengths, 4, seed=0, epoch=0)
    assert padded(grouped) < 1.1 * sum(lengths)
    assert padded(grouped) < 0.8 * padded(shuffled)


def test_short_and_long_batches_take_turns() -> None:
    lengths = list(range(400))
    means = [np.mean([lengths[i] for i in batch]) for batch in epoch_batches(lengths, 4, seed=0, epoch=0)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.5


def test_order_follows_seed_and_epoch_alone() -> None:
    first, again, later, other = (
        epoch_batches(LENGTHS, 4, seed, epoch) for seed, epoch in ((5, 0), (5, 0), (5, 1), (6, 0))
    )
    assert first == again
    assert first != later
    assert first != other
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in later}


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_alone_every_step_is_one_batch(batch_size: int) -> None:
    order = Order(LENGTHS, settings(batch_size=batch_size))
    passes = list(order)
    assert len(passes) == len(order)
    wanted = [batch for epoch in range(2) for batch in epoch_batches(LENGTHS, batch_size, 0, epoch)]
    assert passes == wanted


@pytest.mark.parametrize(("accumulation", "count"), [(1, 2), (2, 1), (2, 2), (4, 2), (1, 3), (8, 3)])
def test_a_step_is_dealt_out_whole_and_once(accumulation: int, count: int) -> None:
    """Also the last one, of 103 = 12 x 8 + 7 examples, and where there are more places than examples."""
    chosen = settings(accumulation=accumulation)
    orders = [Order(LENGTHS, chosen, index, count) for index in range(count)]
    dealt = [list(order) for order in orders]
    alone = list(Order(LENGTHS, settings()))
    assert {len(passes) for passes in dealt} == {len(order) for order in orders} == {len(alone) * accumulation}
    for step, batch in enumerate(alone):
        passes = [one[step * accumulation + turn] for one in dealt for turn in range(accumulation)]
        assert all(passes)
        assert sorted(i for one in passes for i in one if i >= 0) == sorted(batch)
        for one in passes:
            # only a pass that would have been empty has one without loss, and no other
            assert min(one) >= 0 or len(one) == 1
            assert all(-1 - i in batch for i in one if i < 0)
