"""A small random model and clips, searched once with `generate` and once in batches."""

from __future__ import annotations

import pytest
from transformers import Qwen2AudioProcessor

from compress.search.bench import encode
from compress.search.greedy import Round
from tests.compress import babbler
from tests.compress.conftest import sound
from tests.compress.search.setting import N_LAYERS, Setting, babbling, rounds

CLIPS = [sound(duration_s, seed) for seed, duration_s in enumerate([0.3, 2.0, 1.1, 4.0, 0.7, 3.1])]
N_REMOVE = 3


@pytest.fixture(scope="session")
def searched(processor: Qwen2AudioProcessor) -> tuple[Setting, list[Round]]:
    """Six clips of different lengths, and the batched search for three of five layers, none of them protected."""

    def make(seed: int) -> Setting:
        model = babbler.build(processor, seed)
        return Setting(model, processor, encode(model, processor, CLIPS), [""] * len(CLIPS), CLIPS)

    return babbling(make, N_REMOVE)


@pytest.fixture(scope="session")
def setting(searched: tuple[Setting, list[Round]]) -> Setting:
    return searched[0]


@pytest.fixture(scope="session")
def batched_rounds(searched: tuple[Setting, list[Round]]) -> list[Round]:
    return searched[1]


@pytest.fixture(scope="session")
def naive_rounds(setting: Setting) -> list[Round]:
    """The published way, with transformers' own `generate`."""
    return rounds(setting.naive(), N_LAYERS, N_REMOVE)
