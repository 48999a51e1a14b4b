"""Each sound is prepared once, and as the encoder would have it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress import clips, decoding
from compress.audio import N_SAMPLES, Samples
from compress.clips import Clips
from compress.errors import CorruptAudio, RecipeError
from compress.model import freeze
from compress.training.collate import TrainingExample
from tests.compress.conftest import sound
from tests.compress.toy_training import Sound, examples


@pytest.fixture
def progress() -> Iterator[Progress]:
    with Progress(disable=True) as bar:
        yield bar


@dataclass(frozen=True)
class Broken:
    key: str = "broken"

    def load(self, max_s: float | None = None) -> Samples:
        raise CorruptAudio("the wav file cannot be decoded")


@dataclass(frozen=True)
class Unreadable:
    @property
    def key(self) -> str:
        raise PermissionError("permission denied")

    def load(self, max_s: float | None = None) -> Samples:
        raise AssertionError("never gets here")


@dataclass(frozen=True)
class Endless:
    key: str = "endless"

    def load(self, max_s: float | None = None) -> Samples:
        return np.zeros(N_SAMPLES + 8000, np.float32)


def test_a_frozen_towers_output_is_kept_and_each_sound_asked_for_once(
    miniature: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, tmp_path: Path, progress: Progress
) -> None:
    freeze(miniature, ["tower"])
    heard = Sound(3)
    twice = [TrainingExample("a", heard, "x"), TrainingExample("b", heard, "y"), *examples(3)]
    prepared = clips.prepare(miniature, processor, twice, tmp_path, progress)
    with torch.inference_mode():
        (wanted,) = decoding.encode(miniature, decoding.log_mel(processor, [sound(0.7, 3)]))
    found = prepared.load(Sound(3))
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, wanted.numpy().astype(np.float16))
    assert prepared.n_tokens(Sound(3)) == len(wanted)
    clips.prepare(miniature, processor, twice, tmp_path, progress)
    assert heard.loads == [3]
    assert len(list(tmp_path.rglob("*.npy"))) == 4


def test_samples_are_kept_for_a_tower_that_trains(
    miniature: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, tmp_path: Path, progress: Progress
) -> None:
    freeze(miniature, [])
    prepared = clips.prepare(miniature, processor, examples(5), tmp_path, progress)
    for example in examples(5):
        samples = example.audio.load()
        np.testing.assert_array_equal(prepared.load(example.audio), samples)
        mel = decoding.log_mel(processor, [samples])
        assert prepared.n_tokens(example.audio) == decoding.n_audio_tokens(mel.n_frames[0])


def test_another_tower_has_other_clips(
    miniature: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, tmp_path: Path, progress: Progress
) -> None:
    freeze(miniature, ["tower"])
    before = clips.prepare(miniature, processor, examples(1), tmp_path, progress)
    miniature.model.audio_tower.layer_norm.bias.data += 1
    after = clips.prepare(miniature, processor, examples(1), tmp_path, progress)
    assert before.directory != after.directory
    audio = examples(1)[0].audio
    np.testing.assert_allclose(after.load(audio), before.load(audio).astype(np.float32) + 1, atol=5e-3)
    miniature.lm_head.weight.data += 1
    assert clips.prepare(miniature, processor, examples(1), tmp_path, progress).directory == after.directory


def test_processes_share_the_work_and_a_killed_one_leaves_no_half_a_clip(tmp_path: Path, progress: Progress) -> None:
    shared = Clips(tmp_path)
    listed = examples(5)
    shared.prepare(listed, lambda samples: samples, progress, share=(0, 2))
    assert len(list(tmp_path.rglob("*.npy"))) == 3
    half = next(tmp_path.rglob("*.npy")).with_suffix(".123.tmp")
    half.write_bytes(b"half a clip")
    shared.prepare(listed, lambda samples: samples, progress)
    for example in listed:
        np.testing.assert_array_equal(shared.load(example.audio), example.audio.load())


def test_what_cannot_be_used_is_named(tmp_path: Path, progress: Progress) -> None:
    kept = Clips(tmp_path)
    for audio, complaint in (
        (Broken(), "the audio of third cannot be used: the wav file cannot be decoded"),
        (Unreadable(), "the audio of third cannot be used: permission denied"),
        (Endless(), r"the audio of third lasts 30\.5 s; the encoder hears 30 s"),
    ):
        listed = [*examples(2), TrainingExample("third", audio, "x")]
        with pytest.raises(RecipeError, match=complaint):
            kept.prepare(listed, lambda samples: samples, progress)
