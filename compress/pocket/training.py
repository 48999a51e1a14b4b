"""Training the pocket model's decoder on cached features; resumable, the same result either way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from transformers import Qwen2AudioForConditionalGeneration

from compress.pocket.packing import Example, PackedBatch, batches, losses, pack


@dataclass(frozen=True)
class TrainingSettings:
    """How the decoder is trained.

    Attributes:
        epochs: passes over the examples.
        tokens_per_batch: padded packed tokens of a batch.
        matrix_lr: peak learning rate of the decoder's matrices (Muon).
        other_lr: peak learning rate of everything else (AdamW).
        warmup_steps: steps of linear warm-up; then a cosine down to zero.
        weight_decay: of the matrices.
        feature_noise: standard deviation of the noise on audio features, relative to theirs.
        ctc_layer, ctc_weight: after which decoder layer the alignment loss listens, and its weight.
        seed: of order and noise.
        save_every: steps between two saves of the training state.
    """

    epochs: int
    tokens_per_batch: int = 4096
    matrix_lr: float = 0.02
    other_lr: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.02
    feature_noise: float = 0.15
    ctc_layer: int = 6
    ctc_weight: float = 0.3
    seed: int = 0
    save_every: int = 100


def train(
    model: Qwen2AudioForConditionalGeneration,
    examples: Sequence[Example],
    settings: TrainingSettings,
    state_file: Path,
    progress: Progress,
    report: Callable[[int, float, float], None],
) -> None:
    """Trains the projector and the decoder in place.

    Args:
        model: fp32 master weights; the tower is left alone.
        examples: clips with cached features.
        settings: see `TrainingSettings`.
        state_file: training state, written every `save_every` steps; if it exists, training goes on from it.
        progress: shows steps done and time left.
        report: called with step, answer loss and alignment loss every 20 steps.
    """
    lengths = [example.n_tokens for example in examples]
    plan = [
        (epoch, batch)
        for epoch in range(settings.epochs)
        for batch in batches(lengths, settings.tokens_per_batch, settings.seed + epoch)
    ]
    device = model.lm_head.weight.device
    optimizers = _optimizers(model, settings)
    step = _resume(model, optimizers, state_file)
    task = progress.add_task("training", total=len(plan), completed=step)
    model.train()
    for number in range(step, len(plan)):
        scale = _schedule(number, len(plan), settings.warmup_steps)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * scale
        batch = _to(pack([examples[i] for i in plan[number][1]]), device)
        batch = _disturb(batch, settings.feature_noise, settings.seed * 1_000_003 + number)
        with torch.autocast(device.type, torch.bfloat16):
            value = losses(model, batch, settings.ctc_layer, torch.bfloat16)
        (value.answers + settings.ctc_weight * value.alignment).backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        progress.advance(task)
        if number % 20 == 19:
            report(number + 1, float(value.answers.detach()), float(value.alignment.detach()))
        if number % settings.save_every == settings.save_every - 1:
            _save_state(model, optimizers, number + 1, state_file)
    _save_state(model, optimizers, len(plan), state_file)
    model.eval()


def _optimizers(model: Qwen2AudioForConditionalGeneration, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """Muon for the decoder's matrices, AdamW for embeddings, head, projector, norms and biases."""
    matrices = [p for p in model.model.language_model.layers.parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    return [
        torch.optim.Muon(
            [{"params": matrices, "peak_lr": settings.matrix_lr}],
            lr=settings.matrix_lr,
            weight_decay=settings.weight_decay,
        ),
        torch.optim.AdamW(
            [{"params": others, "peak_lr": settings.other_lr}],
            lr=settings.other_lr,
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=True,
        ),
    ]


def _schedule(step: int, total: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _disturb(batch: PackedBatch, noise: float, seed: int) -> PackedBatch:
    """Noise on the audio features, and short gaps in them (SpecAugment's time masks, after the encoder)."""
    rng = np.random.default_rng(seed)
    features = batch.features
    n, width = features.shape
    generator = torch.Generator().manual_seed(seed)
    scale = features.std() * noise
    disturbed = features + torch.randn(n, width, generator=generator).to(features.device) * scale
    # One gap of up to six tokens (240 ms) in every 60 on average.
    for start in rng.integers(0, n, n // 60):
        disturbed[start : start + int(rng.integers(1, 7))] = 0
    return replace(batch, features=disturbed)


def _to(batch: PackedBatch, device: torch.device) -> PackedBatch:
    moved: dict[str, Tensor] = {name: value.to(device) for name, value in vars(batch).items()}
    return PackedBatch(**moved)


def _save_state(model: nn.Module, optimizers: list[torch.optim.Optimizer], step: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    state: dict[str, Any] = {
        "step": step,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    torch.save(state, temporary)
    temporary.replace(path)


def _resume(model: nn.Module, optimizers: list[torch.optim.Optimizer], path: Path) -> int:
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])
