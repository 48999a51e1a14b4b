"""How much prepared sound is expected; what a real run leaves is compared in `test_pipeline`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress import clips
from compress import recipe as recipes
from compress.audio import SAMPLE_RATE
from compress.audio_plan import MEAN_S, Ear, audio_bytes, heard, n_utterances
from compress.checkpoint import POCKET
from compress.dataset import load
from compress.recipe import Data, Split
from compress.sources.splits import SPLITS
from compress.weights.architectures import QWEN2_AUDIO_7B, Architecture
from tests.compress import toy_pipeline
from tests.compress.conftest import sound

S_BYTES = 4 * SAMPLE_RATE  # of samples; and of the 7B's tower, whose 25 tokens have 1280 values of two bytes


def ears(name: str, *settings: str) -> list[tuple[Ear, str, str]]:
    return [(ear, data.source, split) for ear, (data, split) in heard(recipes.load(name, settings))]


def test_the_papers_setup_2() -> None:
    found = audio_bytes(recipes.load("setup2-de"), QWEN2_AUDIO_7B.tower_width)
    acl, covost = S_BYTES * MEAN_S["acl6060"], S_BYTES * MEAN_S["covost2"]
    # samples to train on, the teacher's encodings of them, and reports by five towers
    assert found == round(acl * (2 * 784 + 5 * 100) + covost * 100_000)


def test_a_trained_tower_hears_anew_and_a_frozen_one_does_not() -> None:
    trained = ears("setup1-de", "stages.distill=", "stages.qlora=", "stages.export=")
    assert trained == [(0, "acl6060", "report"), ("samples", "acl6060", "train"), (1, "acl6060", "report")]
    frozen = ears("setup1-de", "stages.distill=", "stages.qlora=", "stages.export=", "stages.finetune.frozen=[tower]")
    assert frozen == [(0, "acl6060", "report"), (0, "acl6060", "train")]


def test_a_tower_that_loses_layers_is_another_one() -> None:
    found = ears("ablation-prune-encoder-and-decoder-de")
    assert {ear for ear, _, split in found if split == "report"} == {0, 1, 2, 3}


@pytest.mark.parametrize("split", SPLITS)
def test_the_pocket_corpus_has_as_many_utterances_as_are_counted(split: Split) -> None:
    data = Data(source="pocket", domain="talks", n_train=30, n_search=5, n_report=7)
    assert n_utterances(data, "de", split) == len(load(data, "de", split).utterances)


def test_a_manifest_is_counted(tmp_path: Path) -> None:
    manifest = toy_pipeline.write_data(tmp_path / "data")
    data = Data(source="manifest", path=manifest)
    assert {split: n_utterances(data, "de", split) for split in SPLITS} == toy_pipeline.N_BY_SPLIT


def test_the_paper_trains_on_784() -> None:
    assert n_utterances(recipes.load("setup1-de").data, "de", "train") == 784
    assert n_utterances(Data(source="acl6060"), "de", "train") == 684
    assert n_utterances(Data(source="covost2", n_train=50), "de", "train") == 50


def test_a_second_takes_what_a_clip_takes(
    pocket: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    recipe = recipes.load("pocket-ablation-prompt-instruct-de")
    width = Architecture.read(POCKET).tower_width
    wanted = clips.encoded(pocket, processor, sound(8.0)).nbytes / 8
    n = n_utterances(recipe.data, "de", "report")
    assert audio_bytes(recipe, width) == pytest.approx(n * MEAN_S["pocket"] * wanted, rel=0.01)
    assert np.asarray(sound(1.0)).nbytes == S_BYTES
