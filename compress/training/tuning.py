"""What full fine-tuning and adapters have in common: a checkpoint is trained, tried out, and put in its place."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from compress import export
from compress.checkpoint import Checkpoint
from compress.recipe import Recipe
from compress.recipe_stages import Finetune, Optimisation, Qlora
from compress.training import trainer
from compress.training.collate import TrainingExample, TrainingSet
from compress.training.states import STATES
from compress.weights import storage


class Training(Protocol):
    """The part of a stage that is its own."""

    def __call__(self, training_set: TrainingSet, directory: Path | None) -> dict[str, Any]:
        """Trains, writes the checkpoint to `directory`, if this process has one, and says what there is to say of it.

        It keeps no model: another one is loaded next.
        """


def run(
    stage: Finetune | Qlora,
    recipe: Recipe,
    examples: Sequence[TrainingExample],
    source: Checkpoint,
    out: Path,
    work: Path,
    cache: Path | None,
    train: Training,
) -> Checkpoint:
    """Makes `out`, unless it is there already, and deletes the states of its training.

    All processes that train together run this; one of them writes.  What it is given is what `finetune.run` and
    `qlora.run` are, and the training.

    Raises:
        RecipeError: see `trainer.fit`.
        CheckpointError: `out` holds something else, or what was written does not work.
    """
    together = trainer.processes()
    training_set = TrainingSet(examples, source.load_processor(), recipe.wording, cache or work / "audio")
    settings = stage.model_dump(mode="json")
    made_from = storage.digest(settings, training_set.fingerprint(), source.identity)
    if storage.is_made(out, made_from):
        return Checkpoint.open(out)
    temporary = storage.begin(out) if together.is_main else None  # refuses now, not after hours
    facts = train(training_set, temporary)
    if temporary is not None:
        gc.collect()  # the model and its optimiser, which refer to each other, before another one is loaded
        trial = export.try_out(Checkpoint.open(temporary), examples[0].audio.load(), training_set.prompt)
        facts |= {"n_examples": len(examples), "language": recipe.language, "prompt": recipe.prompt}
        lineage = source.descend(out.name, settings, **facts, trial=trial, made_from=made_from)
        storage.write_lineage(temporary, lineage)
        storage.finish(temporary, out)
        shutil.rmtree(work / STATES, ignore_errors=True)
    together.wait()
    return Checkpoint.open(out)


def dtype_of(settings: Optimisation) -> torch.dtype:
    """In which a model is loaded to be trained, see `trainer.fit`."""
    return torch.bfloat16 if settings.master_weights == "bf16" else torch.float32
