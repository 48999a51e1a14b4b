"""A model that `benchmarks gpu` measures, and how much is measured of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from benchmarks.true_size.model import n_weight_bytes
from compress.model import decoder_layers, without_layers
from compress.weights.architectures import QWEN2_AUDIO_7B, Architecture

_BRIEF_PARTS: Final = ("latency", "footprint", "encoder")
_FULL_BYTES: Final = 19_000_000_000  # weights in bf16, and what one clip takes


@dataclass(frozen=True)
class Size:
    """How large the model is, and how much is measured of it.

    Attributes:
        layers: how many of the decoder's are kept: all of them first, then fewer and fewer.
        clips_s: seconds of audio; the shortest is the one that batches and searches are made of.
        rows: decoded together.
        new_tokens: of every translation.
        utterances: that the search translates with each candidate.
    """

    architecture: Architecture
    layers: tuple[int, ...]
    clips_s: tuple[float, ...]
    rows: tuple[int, ...]
    new_tokens: int
    repeats: int
    utterances: int


SIZES: Final = {
    "full": Size(QWEN2_AUDIO_7B, (32, 24, 16), (5.0, 15.0, 30.0), (1, 2, 4, 8, 16, 32, 64), 32, 3, 16),
    # what a CPU has time for
    "full-brief": Size(QWEN2_AUDIO_7B, (32, 24, 16), (5.0,), (1,), 8, 3, 1),
    "small": Size(
        Architecture(
            name="Qwen2-Audio, small",
            tower_width=128,
            tower_ffn=256,
            n_tower_layers=2,
            n_mels=128,
            n_frames=1500,
            width=256,
            ffn=512,
            n_layers=8,
            n_heads=4,
            n_kv_heads=4,
            head_width=64,
            vocabulary=8192,
        ),
        layers=(8, 6, 4),
        clips_s=(1.0, 3.0),
        rows=(1, 2, 4),
        new_tokens=3,
        repeats=1,
        utterances=2,
    ),
}


def problem(size: str, part: str, form: str, free_bytes: int) -> str:
    """Why a part of a size cannot be measured on a CPU with so much free memory; empty where it can."""
    if size != "full-brief":
        return ""
    if part not in _BRIEF_PARTS or form != "bf16":
        return "too slow without a GPU"
    if free_bytes < _FULL_BYTES:
        return f"takes {_FULL_BYTES / 1e9:.0f} GB of memory, and {free_bytes / 1e9:.0f} GB are free"
    return ""


@dataclass(frozen=True)
class Bench:
    """A model to be measured."""

    model: Qwen2AudioForConditionalGeneration
    processor: Qwen2AudioProcessor
    size: Size
    device: str

    @contextmanager
    def kept(self, n_layers: int) -> Iterator[int]:
        """The model with so many decoder layers; which ones makes no difference to what they cost.

        Yields:
            Bytes of those that are put aside, which stay in memory.
        """
        whole_bytes = self.decoder_bytes()
        with without_layers(self.model, decoder=range(n_layers, len(decoder_layers(self.model)))):
            yield whole_bytes - self.decoder_bytes()

    def decoder_bytes(self) -> int:
        """What every decode step has to read: the layers that are there, and lm_head."""
        return n_weight_bytes([decoder_layers(self.model), self.model.lm_head])

    def forget_peak(self) -> None:
        """Has `peak_bytes` count from now on."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self, aside: int) -> int | None:
        """The most device memory in use at once, but for what is put aside; None for a CPU, which does not tell."""
        return torch.cuda.max_memory_allocated() - aside if self.device == "cuda" else None
