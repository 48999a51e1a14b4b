"""Limits of the machine that the tests run on."""

from __future__ import annotations

import time

import pytest
import torch

from benchmarks.roofs import Roofs, seconds
from benchmarks.work import Work

MEMORY_BYTES = 1 << 24


@pytest.fixture(scope="module")
def roofs() -> Roofs:
    return Roofs("cpu", MEMORY_BYTES)


def test_the_longer_of_the_two_is_the_bound(roofs: Roofs) -> None:
    rate, bandwidth = roofs.rate(torch.float32), roofs.bandwidth()
    # between a watch and the best that anybody builds
    assert 1e7 < rate < 1e16
    assert 1e7 < bandwidth < 1e14
    computing = Work(operations=round(rate), n_bytes=1)
    bound_s, limit = roofs.bound(computing, torch.float32)
    assert (round(bound_s, 6), limit) == (1, "operations")
    moving = Work(operations=1, n_bytes=round(2 * bandwidth))
    bound_s, limit = roofs.bound(moving, torch.float32)
    assert (round(bound_s, 6), limit) == (2, "bytes")


def test_each_limit_is_measured_once(roofs: Roofs) -> None:
    assert roofs.rate(torch.float32) == roofs.rate(torch.float32)
    assert roofs.bandwidth() == roofs.bandwidth(MEMORY_BYTES) == roofs.bandwidth(100 * MEMORY_BYTES)
    assert roofs.bandwidth(1 << 20) == roofs.bandwidth((1 << 20) - 1)


def test_seconds_are_seconds() -> None:
    assert 0.05 <= seconds(lambda: time.sleep(0.05), "cpu") < 5
