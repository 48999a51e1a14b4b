"""`python -m benchmarks encoder`: the encoder on valid frames only, against the padded 30 s window.

Qwen2-Audio's processor pads every clip to 3,000 mel frames, and transformers' encoder runs all of
them, though the mask keeps the padding out of every result.  `compress.decoding.encode` leaves it
out and gives the same embeddings (`max_difference`).  Measured is the ratio of the two times on the
same clip, padded / valid: more than 1 is faster.  It is taken twice: for the encoder alone, and for
the whole way from samples to embeddings, whose mel features are padded or not as well.

What to expect.  Per position, a layer costs 4 d² + 2 d f multiply-adds in its projections (width d,
feed-forward f) and 2 d T in attention over T positions, so the work grows a little faster than the
clip, and `work` is the ratio of the two sums.  A ratio of times comes near it where arithmetic
decides: on a CPU, or for a wide encoder on a GPU.  It stays below where a fixed cost per operation
decides, as on a GPU with a small encoder and a batch of one; and at 30 s both do the same.

How.  The runs are interleaved and take turns in going first, so that a machine busy with something
else slows both alike; given are the median of the repeats' ratios and their quartiles.  Seconds are
shown only for a GPU: a shared CPU's say more about its other work.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import Qwen2AudioEncoderConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import logging as transformers_logging

from benchmarks import devices
from compress.audio import FRAMES_PER_SECOND, N_FRAMES, SAMPLE_RATE, Samples
from compress.checkpoint import POCKET, Checkpoint
from compress.decoding import encode, log_mel
from compress.errors import RecipeError

CLIPS_S: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
REPEATS: Final = 20

Run = Callable[[], object]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--model", type=Path, default=POCKET, metavar="DIR", help="checkpoint (default: pocket)")
    devices.add_flag(parser)
    parser.add_argument("--repeats", type=int, default=REPEATS, metavar="N", help=f"of each run (default: {REPEATS})")
    seconds = " ".join(f"{clip_s:g}" for clip_s in CLIPS_S)
    parser.add_argument(
        "--clips", type=float, nargs="+", default=CLIPS_S, metavar="S", help=f"seconds of audio (default: {seconds})"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints a table, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant.
        CheckpointError, AudioTooLong: see `compress.errors`.
    """
    if options.repeats < 1 or min(options.clips) <= 0:
        raise RecipeError("--repeats must be at least 1, and each of --clips more than 0 seconds")
    device = devices.chosen(options.device)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    checkpoint = Checkpoint.open(options.model)
    transformers_logging.disable_progress_bar()
    model, processor = checkpoint.load_model(device, dtype), checkpoint.load_processor()
    clips = compare(model, processor, options.clips, options.repeats)
    _print(clips, f"{checkpoint.name} on {device}, {options.repeats} repeats: padded / valid, median (quartiles)")
    return {
        "model": {"name": checkpoint.name, "bytes": checkpoint.n_bytes},
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "repeats": options.repeats,
        "clips": clips,
    }


@torch.inference_mode()
def compare(
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    clips_s: Sequence[float],
    repeats: int,
) -> list[dict[str, Any]]:
    """Measures clips of so many seconds; what the result row keeps of each.

    Raises:
        AudioTooLong: a clip is longer than the encoder's window.
    """
    on_gpu = model.device.type == "cuda"
    bouts = [_bout(model, processor, clip_s) for clip_s in clips_s]
    _measure(bouts, repeats, on_gpu)
    return [bout.numbers(on_gpu) for bout in bouts]


def multiply_adds(config: Qwen2AudioEncoderConfig, n_frames: int) -> int:
    """The encoder's multiply-adds for `n_frames` mel frames: two convolutions, then the layers."""
    d, n_positions = config.d_model, (n_frames - 1) // 2 + 1
    convolutions = 3 * d * (config.num_mel_bins * n_frames + d * n_positions)
    per_position = 4 * d * d + 2 * d * config.encoder_ffn_dim + 2 * d * n_positions
    return convolutions + config.encoder_layers * n_positions * per_position


@dataclass(frozen=True)
class _Bout:
    """One clip's two runs, for each of the stages, and the times they have taken so far."""

    clip_s: float
    work: float
    max_difference: float
    stages: dict[str, tuple[Run, Run]]  # padded, valid
    times_s: dict[str, list[tuple[float, float]]]

    def numbers(self, with_seconds: bool) -> dict[str, Any]:
        """What the result row keeps of this clip."""
        found: dict[str, Any] = {
            "clip_s": self.clip_s,
            "work": round(self.work, 2),
            "max_difference": float(f"{self.max_difference:.2g}"),
        }
        for stage, pairs in self.times_s.items():
            padded_s, valid_s = np.array(pairs).T
            low, median, high = np.quantile(padded_s / valid_s, [0.25, 0.5, 0.75])
            found[stage] = {"ratio": round(median, 2), "low": round(low, 2), "high": round(high, 2)}
            if with_seconds:
                medians = {"padded_s": np.median(padded_s), "valid_s": np.median(valid_s)}
                found[stage] |= {name: round(float(value), 6) for name, value in medians.items()}
        return found


def _bout(model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, clip_s: float) -> _Bout:
    """Both runs on noise: what is heard does not change what it costs."""
    samples = np.random.default_rng(0).normal(0, 0.1, round(clip_s * SAMPLE_RATE)).astype(np.float32)
    mel = log_mel(processor, [samples])
    features, mask = _padded_inputs(model, processor, samples)
    stages: dict[str, tuple[Run, Run]] = {
        "encoder": (lambda: _encode_padded(model, features, mask), lambda: encode(model, mel)),
        "speech": (
            lambda: _encode_padded(model, *_padded_inputs(model, processor, samples)),
            lambda: encode(model, log_mel(processor, [samples])),
        ),
    }
    (valid,) = encode(model, mel)
    padded = _encode_padded(model, features, mask)[0, : len(valid)]
    config = model.config.audio_config
    assert isinstance(config, Qwen2AudioEncoderConfig)
    return _Bout(
        clip_s=clip_s,
        work=multiply_adds(config, N_FRAMES) / multiply_adds(config, round(clip_s * FRAMES_PER_SECOND)),
        max_difference=float((padded - valid).abs().max()),
        stages=stages,
        times_s={stage: [] for stage in stages},
    )


def _padded_inputs(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, samples: Samples
) -> tuple[Tensor, Tensor | None]:
    """Mel features of the whole window, shape (1, n_mels, 3000), and the mask, both as `Qwen2AudioModel` makes them."""
    inputs = processor.feature_extractor(
        samples, sampling_rate=SAMPLE_RATE, padding="max_length", return_attention_mask=True, return_tensors="pt"
    )
    tower = model.model.audio_tower
    features = inputs.input_features.to(tower.conv1.weight.device, tower.conv1.weight.dtype)
    n_positions = (int(inputs.attention_mask.sum()) - 1) // 2 + 1
    valid = (torch.arange(N_FRAMES // 2)[None, :] < n_positions).long().to(features.device)
    shape_only = features.new_zeros(1, N_FRAMES // 2, 1)
    mask = create_bidirectional_mask(config=tower.config, inputs_embeds=shape_only, attention_mask=valid)
    assert mask is None or isinstance(mask, Tensor), "flex attention alone has masks of its own kind"
    return features, mask


def _encode_padded(model: Qwen2AudioForConditionalGeneration, features: Tensor, mask: Tensor | None) -> Tensor:
    """The encoder as transformers runs it, shape (1, 750, d_model)."""
    output: Tensor = model.model.audio_tower(features, attention_mask=mask).last_hidden_state
    return output


def _measure(bouts: Sequence[_Bout], repeats: int, on_gpu: bool) -> None:
    """Lets every pair of runs take turns; the first round only warms up."""
    order = random.Random(0)
    for number in range(repeats + 1):
        for bout in order.sample(bouts, len(bouts)):
            for stage, (padded, valid) in bout.stages.items():
                if number % 2:
                    padded_s = _seconds(padded, on_gpu)
                    valid_s = _seconds(valid, on_gpu)
                else:
                    valid_s = _seconds(valid, on_gpu)
                    padded_s = _seconds(padded, on_gpu)
                if number:
                    bout.times_s[stage].append((padded_s, valid_s))


def _seconds(run: Run, on_gpu: bool) -> float:
    started = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _print(clips: Sequence[dict[str, Any]], title: str) -> None:
    with_seconds = "padded_s" in clips[0]["encoder"]
    columns = ["clip", "work", "encoder", "with mel", "largest difference"]
    table = Table(*columns, *(["padded", "valid"] if with_seconds else []), title=title, title_justify="left")
    for clip in clips:
        ratios = ["{ratio:.2f} ({low:.2f}–{high:.2f})".format(**clip[stage]) for stage in ("encoder", "speech")]
        cells = [f"{clip['clip_s']:g} s", f"{clip['work']:.2f}", *ratios, f"{clip['max_difference']:.0e}"]
        if with_seconds:
            cells += [f"{1000 * clip['encoder'][name]:.2f} ms" for name in ("padded_s", "valid_s")]
        table.add_row(*cells)
    Console(width=120).print(table)
