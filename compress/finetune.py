"""Full fine-tuning (section 3.1 of the paper) of all parts that are not frozen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from compress import model
from compress.checkpoint import Checkpoint
from compress.errors import RecipeError
from compress.recipe import Recipe
from compress.recipe_stages import Finetune
from compress.training import trainer, tuning
from compress.training.collate import TrainingExample, TrainingSet
from compress.weights import storage
from compress.weights.architectures import Architecture


def run(
    stage: Finetune,
    recipe: Recipe,
    examples: Sequence[TrainingExample],
    source: Checkpoint,
    out: Path,
    work: Path,
    progress: Progress,
    cache: Path | None = None,
) -> Checkpoint:
    """Trains a checkpoint and writes the result, stored in the dtype in which the source is.

    A run that was killed goes on from what is in `work`; one whose result is in `out` already is not repeated.  Started
    by `accelerate launch`, it runs on all processes, and one of them writes.

    Args:
        stage: what to train, and how.
        recipe: whose stage it is; names the language and the prompt.
        examples: what to train on.
        source: where the weights come from.
        out: the checkpoint to make; one already there is replaced only when the new one is whole.
        work: this stage's own directory; its states are deleted when `out` is there.
        progress: shows steps done and time left.
        cache: directory of prepared sounds, which several stages may share; in `work` when absent.

    Raises:
        RecipeError: the source has no plain weights, or see `trainer.fit`.
        CheckpointError: `out` holds something else, or what was written does not work.
    """
    if source.quantisation is not None or source.adapter is not None:
        raise RecipeError(f"{source.name} is quantised or has an adapter: fine-tuning needs plain weights")
    return tuning.run(stage, recipe, examples, source, out, work, cache, partial(_train, stage, source, work, progress))


def _train(
    stage: Finetune,
    source: Checkpoint,
    work: Path,
    progress: Progress,
    training_set: TrainingSet,
    directory: Path | None,
) -> dict[str, Any]:
    network = source.load_model("cpu", tuning.dtype_of(stage.optimisation))  # the training loop knows better where to
    model.freeze(network, stage.frozen)
    trained = trainer.fit(network, training_set, stage.optimisation, work, progress, stage.name, source.identity)
    stored = source.stored_dtype
    if directory is not None:
        model.save(network, training_set.processor, directory, stored, trained.weights)
        with storage.opened(directory) as written:
            written.check(Architecture.read(directory).shapes())
    return {
        "format": {torch.bfloat16: "bf16", torch.float32: "fp32"}.get(stored, str(stored)),
        "n_steps": trained.n_steps,
        "loss": round(trained.loss, 4),
    }
