"""The loop on a miniature: what it changes, at which rates and precision, and that it goes on where it was killed."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress, TaskID
from safetensors import safe_open
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress.errors import CheckpointError, RecipeError
from compress.model import freeze
from compress.prompt import translation
from compress.recipe_stages import Optimisation
from compress.training import trainer
from compress.training.collate import TrainingSet
from compress.training.states import STATES
from compress.training.trainer import LOSSES_FILE, Trained
from tests.compress.toy_training import examples

N_EXAMPLES, BATCH_SIZE = 10, 4
STEPS_PER_EPOCH = 3


class Killed(Exception):  # noqa: N818 - what happens to it
    pass


class Watched(Progress):
    """Remembers the steps it is shown, and ends the training at one of them as a signal would."""

    def __init__(self, kill_at: int | None = None) -> None:
        super().__init__(disable=True)
        self.steps: list[int] = []
        self.kill_at = kill_at

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        if self._tasks[task_id].description == "training":
            self.steps.append(changes["completed"])
            if self.steps[-1] == self.kill_at:
                raise Killed


def settings(**changes: Any) -> Optimisation:
    plain = {
        "epochs": 2,
        "batch_size": BATCH_SIZE,
        "learning_rate": 1e-3,
        "weight_decay": 0.001,
        "master_weights": "fp32-only",
        "save_every": 2,
    }
    return Optimisation.model_validate(plain | changes)


@pytest.fixture
def training_set(processor: Qwen2AudioProcessor, tmp_path: Path) -> TrainingSet:
    return TrainingSet(examples(N_EXAMPLES), processor, translation("de"), tmp_path / "cache")


@pytest.fixture
def model(miniature: Qwen2AudioForConditionalGeneration) -> Qwen2AudioForConditionalGeneration:
    """With a frozen tower."""
    freeze(miniature, ["tower"])
    return miniature


def fit(
    model: Qwen2AudioForConditionalGeneration,
    training_set: TrainingSet,
    work: Path,
    progress: Progress | None = None,
    **changes: Any,
) -> Trained:
    return trainer.fit(model, training_set, settings(**changes), work, progress or Progress(disable=True))


def log(work: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (work / LOSSES_FILE).read_text().splitlines()]


def losses(work: Path) -> list[float]:
    return [line["loss"] for line in log(work)]


def weights(model: Qwen2AudioForConditionalGeneration) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def changed(before: dict[str, Tensor], model: Qwen2AudioForConditionalGeneration) -> set[str]:
    return {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}


# --- what is learnt ---------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_leaves_what_is_frozen_alone(
    model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    before = weights(model)
    trained = fit(model, training_set, tmp_path / "work", epochs=12, learning_rate=5e-3)
    found = losses(tmp_path / "work")
    assert len(found) == trained.n_steps == 12 * STEPS_PER_EPOCH
    assert sum(found[-STEPS_PER_EPOCH:]) < 0.7 * sum(found[:STEPS_PER_EPOCH])
    assert trained.loss == pytest.approx(sum(found[-STEPS_PER_EPOCH:]) / STEPS_PER_EPOCH)
    assert changed(before, model) == {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert not any("audio_tower" in name for name in changed(before, model))
    assert trained.weights.keys() == before.keys()
    assert all(torch.equal(weight, trained.weights[name]) for name, weight in model.state_dict().items())
    assert not model.training


def test_a_tower_that_is_not_frozen_learns_to_hear(
    miniature: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    freeze(miniature, ["projector", "decoder", "embeddings", "lm_head"])
    before = weights(miniature)
    fit(miniature, training_set, tmp_path / "work")
    found = changed(before, miniature)
    assert "model.audio_tower.conv1.weight" in found
    assert "model.audio_tower.embed_positions.weight" not in found
    assert all("audio_tower" in name for name in found)


def test_the_rate_falls_as_a_cosine_from_the_first_step(
    model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    fit(model, training_set, tmp_path / "work")
    n_steps = 2 * STEPS_PER_EPOCH
    wanted = [1e-3 * 0.5 * (1 + math.cos(math.pi * step / n_steps)) for step in range(n_steps)]
    assert [line["learning_rate"] for line in log(tmp_path / "work")] == pytest.approx(wanted)
    assert [line["step"] for line in log(tmp_path / "work")] == list(range(1, n_steps + 1))


def test_the_rate_rises_first_when_asked_to(
    model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    fit(model, training_set, tmp_path / "work", warmup_ratio=0.5)
    rates = [line["learning_rate"] for line in log(tmp_path / "work")]
    assert rates[:4] == pytest.approx([0, 1e-3 / 3, 2e-3 / 3, 1e-3])
    assert rates[3:] == sorted(rates[3:], reverse=True)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulated_passes_are_one_step(
    accumulation: int, model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    """The Trainer left to itself multiplies this model's loss and gradients by their number."""
    other = copy.deepcopy(model)
    fit(model, training_set, tmp_path / "whole")
    fit(other, training_set, tmp_path / "parts", accumulation=accumulation)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
    whole, parts = ([line["grad_norm"] for line in log(tmp_path / work)] for work in ("whole", "parts"))
    assert parts == pytest.approx(whole, rel=1e-3)


def test_gradient_checkpointing_changes_memory_and_nothing_else(
    miniature: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    freeze(miniature, [])
    other = copy.deepcopy(miniature)
    passes: list[int] = []
    layer = miniature.model.language_model.layers[0]
    hook = layer.mlp.register_forward_pre_hook(lambda *call: passes.append(1))
    fit(miniature, training_set, tmp_path / "checkpointed", gradient_checkpointing=True)
    hook.remove()
    fit(other, training_set, tmp_path / "plain")
    assert losses(tmp_path / "checkpointed") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    assert len(passes) == 2 * 2 * STEPS_PER_EPOCH  # forward, and once more on the way back
    assert not miniature.is_gradient_checkpointing


@pytest.mark.parametrize(
    ("master_weights", "dtype", "computed"),
    [
        ("fp32", torch.float32, torch.bfloat16),
        ("bf16", torch.bfloat16, torch.bfloat16),
        ("fp32-only", torch.float32, torch.float32),
    ],
)
def test_precision(
    master_weights: str,
    dtype: torch.dtype,
    computed: torch.dtype,
    model: Qwen2AudioForConditionalGeneration,
    training_set: TrainingSet,
    tmp_path: Path,
) -> None:
    """At the paper's rate, most steps of bf16 weights round away; those of fp32 weights under bf16 autocast do not."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    before = weights(model)
    scores: list[torch.dtype] = []
    hook = model.lm_head.register_forward_hook(lambda *call: scores.append(call[2].dtype))
    fit(model, training_set, tmp_path / "work", master_weights=master_weights, learning_rate=1e-5, epochs=1)
    hook.remove()
    assert set(scores) == {computed}
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    moved = (model.lm_head.weight != before["lm_head.weight"]).float().mean()
    assert moved < 0.3 if dtype == torch.bfloat16 else moved > 0.9


# --- killed and resumed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2])
def test_killed_and_resumed_is_bitwise_what_uninterrupted_training_gives(
    accumulation: int, model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    whole, killed, resumed = copy.deepcopy(model), copy.deepcopy(model), copy.deepcopy(model)
    fit(whole, training_set, tmp_path / "whole", epochs=4, accumulation=accumulation)
    with pytest.raises(Killed):
        fit(killed, training_set, tmp_path / "work", Watched(kill_at=7), epochs=4, accumulation=accumulation)
    # killed again, while a state was written and an older one deleted
    states = tmp_path / "work" / STATES
    (states / "partial" / "checkpoint-7").mkdir(parents=True)
    (states / "partial" / "checkpoint-7" / "trained.safetensors").write_bytes(b"half")
    (states / "step-00000002").mkdir()
    watched = Watched()
    trained = fit(resumed, training_set, tmp_path / "work", watched, epochs=4, accumulation=accumulation)
    # the last whole state is that of step 6
    assert watched.steps == list(range(7, 4 * STEPS_PER_EPOCH + 1))
    assert changed(weights(whole), resumed) == set()
    assert changed(weights(whole), killed)
    assert (tmp_path / "work" / LOSSES_FILE).read_text() == (tmp_path / "whole" / LOSSES_FILE).read_text()
    assert trained.n_steps == 4 * STEPS_PER_EPOCH


@pytest.mark.parametrize("kill_at", [5, 9])
def test_resuming_in_the_middle_of_an_epoch_keeps_the_order(
    kill_at: int, model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    """States of steps 4 and 8, with three steps an epoch."""
    whole, resumed = copy.deepcopy(model), copy.deepcopy(model)
    fit(whole, training_set, tmp_path / "whole", epochs=4)
    with pytest.raises(Killed):
        fit(model, training_set, tmp_path / "work", Watched(kill_at), epochs=4)
    fit(resumed, training_set, tmp_path / "work", epochs=4)
    assert changed(weights(whole), resumed) == set()


def test_finished_training_is_not_repeated(
    model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    again = copy.deepcopy(model)
    first = fit(model, training_set, tmp_path / "work")
    watched = Watched()
    second = fit(again, training_set, tmp_path / "work", watched)
    assert watched.steps == []
    assert changed(weights(model), again) == set()
    assert (second.n_steps, second.loss) == (first.n_steps, first.loss)


def test_one_state_is_kept_and_holds_only_what_trains(
    model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    fit(model, training_set, tmp_path / "work")
    (state,) = (tmp_path / "work" / STATES).glob("step-*")
    assert state.name == "step-00000006"
    with safe_open(state / "trained.safetensors", "pt") as file:
        names = {name.removeprefix("model.") for name in file.keys()}  # noqa: SIM118 - no mapping
    assert names == {name for name, weight in model.named_parameters() if weight.requires_grad}


def test_two_runs_are_the_same_and_another_seed_is_another(
    model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    models = [copy.deepcopy(model) for _ in range(3)]
    for one, seed, name in zip(models, (0, 0, 1), "abc", strict=True):
        fit(one, training_set, tmp_path / name, seed=seed)
    first, again, other = models
    assert changed(weights(first), again) == set()
    assert changed(weights(first), other)


# --- what is refused --------------------------------------------------------------------------------------------


def test_states_of_other_settings_are_refused_and_the_change_is_named(
    model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    fit(model, training_set, tmp_path / "work", epochs=1)
    with pytest.raises(RecipeError, match=r"learning_rate was 0\.001, is 0\.002"):
        fit(model, training_set, tmp_path / "work", epochs=1, learning_rate=2e-3)
    fewer = TrainingSet(training_set.examples[1:], training_set.processor, training_set.prompt, training_set.cache)
    with pytest.raises(RecipeError, match="training set was"):
        fit(model, fewer, tmp_path / "work", epochs=1)
    with pytest.raises(RecipeError, match="origin was '', is 'another'"):
        trainer.fit(
            model, training_set, settings(epochs=1), tmp_path / "work", Progress(disable=True), origin="another"
        )
    # what does not change the result may change
    fit(model, training_set, tmp_path / "work", epochs=1, save_every=7, gradient_checkpointing=True)


def test_the_state_of_another_model_is_refused(
    model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    fit(model, training_set, tmp_path / "work", epochs=1)
    n_weights = sum(weight.requires_grad for weight in model.parameters())
    model.requires_grad_(False)
    for weight in list(model.parameters())[:n_weights]:
        weight.requires_grad_(True)
    with pytest.raises(CheckpointError, match="state of another model"):
        fit(model, training_set, tmp_path / "work", epochs=1)


def test_nothing_to_train_and_nothing_to_train_on_are_refused(
    model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    empty = TrainingSet([], training_set.processor, training_set.prompt, training_set.cache)
    with pytest.raises(RecipeError, match="no examples"):
        fit(model, empty, tmp_path / "work")
    model.requires_grad_(False)
    with pytest.raises(RecipeError, match="every part of the model is frozen"):
        fit(model, training_set, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_loss_that_is_no_number_ends_the_training(
    model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"loss of step \d+ is (nan|inf): try a lower learning_rate"):
        fit(model, training_set, tmp_path / "work", learning_rate=1e15)


def test_alone_there_is_one_process() -> None:
    together = trainer.processes()
    assert (together.index, together.count, together.is_main) == (0, 1, True)
    together.wait()
