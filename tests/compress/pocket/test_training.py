"""Training on a miniature: it learns, leaves the tower alone, and goes on where it was killed."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration

from compress.pocket.packing import Example, losses, pack
from compress.pocket.training import TrainingSettings, _schedule, train

SETTINGS = TrainingSettings(epochs=5, tokens_per_batch=120, warmup_steps=3, save_every=4, ctc_layer=2)


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(16):
        n_audio = int(rng.integers(8, 14))
        features = rng.standard_normal((n_audio, 24)).astype(np.float16)
        found.append(Example(features, [5, 6], [([10], [20 + i % 4, 2]), ([11], [30 + i % 4, 2])], [40 + i % 4]))
    return found


def weights(model: Qwen2AudioForConditionalGeneration) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


class Killed(Exception):  # noqa: N818 - what happens to it
    pass


def run(
    model: Qwen2AudioForConditionalGeneration,
    state_file: Path,
    settings: TrainingSettings = SETTINGS,
    kill_at: int | None = None,
) -> list[tuple[int, float, float]]:
    """Trains; `kill_at` ends it when that step is reported, as a signal would."""
    reports: list[tuple[int, float, float]] = []

    def report(*line: float) -> None:
        step, answers, alignment = line
        reports.append((int(step), answers, alignment))
        if step == kill_at:
            raise Killed

    with Progress(disable=True) as progress:
        train(model, examples(), settings, state_file, progress, report)
    return reports


def test_training_lowers_the_loss_and_leaves_the_tower_alone(
    miniature: Qwen2AudioForConditionalGeneration, tmp_path: Path
) -> None:
    before = weights(miniature)
    batch = pack(examples())
    with torch.no_grad():
        first = losses(miniature, batch, 2, torch.float32)
    reports = run(miniature, tmp_path / "run.state", replace(SETTINGS, epochs=20))
    with torch.no_grad():
        last = losses(miniature, batch, 2, torch.float32)
    assert float(last.answers) < 0.5 * float(first.answers)
    assert float(last.alignment) < float(first.alignment)
    assert [step for step, _, _ in reports] == list(range(20, reports[-1][0] + 1, 20))
    after = weights(miniature)
    for name, value in before.items():
        if "audio_tower" in name:
            torch.testing.assert_close(after[name], value, rtol=0, atol=0)
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert changed == {name for name, _ in miniature.named_parameters() if "audio_tower" not in name}
    assert not miniature.training


def test_killed_and_resumed_is_bitwise_what_uninterrupted_training_gives(
    miniature: Qwen2AudioForConditionalGeneration, tmp_path: Path
) -> None:
    # killed at step 20: the last save is step 18's, so two steps are done again
    settings = replace(SETTINGS, epochs=12, save_every=6)
    whole, killed = copy.deepcopy(miniature), copy.deepcopy(miniature)
    run(whole, tmp_path / "whole.state", settings)
    with pytest.raises(Killed):
        run(killed, tmp_path / "killed.state", settings, kill_at=20)
    resumed = copy.deepcopy(miniature)
    run(resumed, tmp_path / "killed.state", settings)
    for name, value in weights(whole).items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_finished_state_trains_no_further(miniature: Qwen2AudioForConditionalGeneration, tmp_path: Path) -> None:
    run(miniature, tmp_path / "run.state")
    done = weights(miniature)
    assert run(miniature, tmp_path / "run.state") == []
    assert all(torch.equal(value, done[name]) for name, value in weights(miniature).items())
    assert [path.name for path in tmp_path.iterdir()] == ["run.state"]


def test_two_runs_are_the_same_and_another_seed_is_another(
    miniature: Qwen2AudioForConditionalGeneration, tmp_path: Path
) -> None:
    models = [copy.deepcopy(miniature) for _ in range(3)]
    for model, seed, name in zip(models, (0, 0, 1), "abc", strict=True):
        run(model, tmp_path / name, replace(SETTINGS, seed=seed, epochs=2))
    first, again, other = (model.lm_head.weight for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    rates = [_schedule(step, 1000, 100) for step in range(1000)]
    assert rates[:100] == pytest.approx([(step + 1) / 100 for step in range(100)])
    assert rates[100] == 1
    assert rates == [*rates[:100], *sorted(rates[100:], reverse=True)]
    assert 0 <= rates[-1] < 1e-4
