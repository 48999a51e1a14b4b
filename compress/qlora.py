"""Low-rank adapters over a model in 4 bits (section 3.2 of the paper), or over a plain one.

The 4-bit weights are written first and loaded from there: what the adapter is trained on is, byte for byte, what is
kept.  The result is what the paper stored: nf4, everything else in fp32, the adapter beside it in fp32.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from rich.progress import Progress

from compress.checkpoint import ADAPTER_FOLDER, Checkpoint
from compress.errors import RecipeError
from compress.recipe import Recipe
from compress.recipe_stages import Qlora
from compress.training import trainer, tuning
from compress.training.collate import TrainingExample, TrainingSet
from compress.training.trainer import Processes
from compress.weights import adapter, storage
from compress.weights.architectures import Architecture
from compress.weights.storage import Form

_BASE: Final = "base"


def run(
    stage: Qlora,
    recipe: Recipe,
    examples: Sequence[TrainingExample],
    source: Checkpoint,
    out: Path,
    work: Path,
    progress: Progress,
    cache: Path | None = None,
) -> Checkpoint:
    """Trains an adapter and writes it beside the weights it belongs to.

    A run that was killed goes on from what is in `work`; one whose result is in `out` already is not repeated.  Started
    by `accelerate launch`, it runs on all processes, and one of them writes.

    Args:
        stage: what to train, and how.
        recipe: whose stage it is; names the language and the prompt.
        examples: what to train on.
        source: the model to adapt.
        out: the checkpoint to make; one already there is replaced only when the new one is whole.
        work: this stage's own directory; its states are deleted when `out` is there.
        progress: shows steps done and time left.
        cache: directory of prepared sounds, which several stages may share; in `work` when absent.

    Raises:
        RecipeError: the source has an adapter, or is quantised although it should not be, or see `trainer.fit`.
        CheckpointError: its files are not what its configuration says, `out` holds something else, or what was written
            does not work.
    """
    _check(stage, source)
    made = tuning.run(stage, recipe, examples, source, out, work, cache, partial(_train, stage, source, work, progress))
    shutil.rmtree(work / _BASE, ignore_errors=True)
    return made


def _check(stage: Qlora, source: Checkpoint) -> None:
    if source.adapter:
        raise RecipeError(f"{source.name} has an adapter already: export it merged first")
    if source.quantisation is not None and stage.quantisation == "none":
        raise RecipeError(f"{source.name} is quantised, and {stage.name} asks for quantisation none")


def _base(stage: Qlora, source: Checkpoint, work: Path, together: Processes) -> Checkpoint:
    """The weights under the adapter, as they are going to be kept; made once for the same source and settings."""
    path = work / _BASE
    if stage.quantisation == "nf4":
        form = Form(stage.modules, torch.float32, double=stage.double_quantisation)
    else:
        form = Form(None, torch.bfloat16)
    made_from = storage.digest(source.identity, str(form))
    if together.is_main and not storage.is_made(path, made_from):
        temporary = storage.begin(path)
        storage.rewrite(source, temporary, form)
        storage.write_lineage(temporary, {"name": _BASE, "made_from": made_from})
        storage.finish(temporary, path)
    together.wait()
    return Checkpoint.open(path)


def _train(
    stage: Qlora,
    source: Checkpoint,
    work: Path,
    progress: Progress,
    training_set: TrainingSet,
    directory: Path | None,
) -> dict[str, Any]:
    together = trainer.processes()
    base = _base(stage, source, work, together)
    counted = adapter.trainable(Architecture.read(source.path), stage)
    if together.is_main:
        progress.console.print(
            f"Training {counted.parameters:,} parameters in {counted.modules} modules: "
            f"{counted.share:.2%} of the model with its adapter."
        )
    # What is frozen is of either dtype without loss; the adapter is in fp32 whatever that is.
    model = base.load_model(str(together.device), tuning.dtype_of(stage.optimisation))
    adapter.attach(model, stage)
    origin = storage.digest(source.identity, stage.model_dump(mode="json", exclude={"name", "optimisation"}))
    trained = trainer.fit(model, training_set, stage.optimisation, work, progress, stage.name, origin)
    if directory is not None:
        shutil.copytree(base.path, directory, dirs_exist_ok=True)
        adapter.save(model, directory / ADAPTER_FOLDER, trained.weights)
    weights = "bf16" if stage.quantisation == "none" else "nf4"
    return {
        "format": f"{weights}, adapter beside it",
        "trainable": {
            "modules": counted.modules,
            "parameters": counted.parameters,
            "share": round(counted.share, 6),
        },
        "n_steps": trained.n_steps,
        "loss": round(trained.loss, 4),
    }
