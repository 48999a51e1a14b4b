"""The forms that a checkpoint can be served in, made from the pocket model and its shipped student."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Final

import torch

from compress import dataset, export, model
from compress import recipe as recipes
from compress.checkpoint import POCKET, Checkpoint
from compress.recipe_stages import Export
from compress.training.collate import training_examples
from compress.weights import storage
from compress.weights.storage import Form

STUDENTS: Final = POCKET.with_name("students")
STUDENT: Final = STUDENTS / "pocket-setup2-de-export"

_RECIPE: Final = "pocket-setup1-de"
_CALIBRATION: Final = 4  # utterances: enough where only the time it takes is of interest

Make = Callable[[Path], Checkpoint]


def pocket(directory: Path) -> Checkpoint:
    """The pocket model as it is shipped."""
    del directory
    return Checkpoint.open(POCKET)


def student(directory: Path) -> Checkpoint:
    """The shipped student: pruned, nf4, with an adapter."""
    del directory
    return Checkpoint.open(STUDENT)


def pruned(layers: Collection[int], directory: Path) -> Checkpoint:
    """The pocket model without some decoder layers, and with no training afterwards: it is as fast as if it had any."""
    whole = Checkpoint.open(POCKET)
    network = whole.load_model("cpu", torch.bfloat16)
    model.remove_layers(network, decoder=layers)
    model.save(network, whole.load_processor(), directory)
    storage.write_lineage(directory, whole.descend(directory.name, {"stage": "prune"}))
    return Checkpoint.open(directory)


def merged(directory: Path) -> Checkpoint:
    """The shipped student in plain bf16, its adapter merged."""
    return _rewritten(STUDENT, directory, Form(None, torch.bfloat16, merge=True))


def nf4_decoder(directory: Path) -> Checkpoint:
    """The pocket model with its decoder in nf4."""
    return _rewritten(POCKET, directory, Form("decoder", torch.bfloat16))


def quantised(layout: str) -> Make:
    """The pocket model in a layout for vLLM's kernels; roughly calibrated, as it is only to be timed."""
    return partial(_calibrated, layout)


def without(*layers: int) -> Make:
    """`pruned` of these layers."""
    return partial(pruned, layers)


def _calibrated(layout: str, directory: Path) -> Checkpoint:
    recipe = recipes.load(_RECIPE)
    utterances = dataset.load(recipe.data, recipe.language, "train").utterances[:_CALIBRATION]
    stage = Export.model_validate({"layout": layout, "calibration": _CALIBRATION})
    return export.run(
        stage,
        Checkpoint.open(POCKET),
        directory,
        clip=utterances[0].audio.load(),
        prompt=recipe.wording,
        training=training_examples(utterances),
    )


def _rewritten(source: Path, directory: Path, form: Form) -> Checkpoint:
    before = Checkpoint.open(source)
    storage.rewrite(before, directory, form)
    storage.write_lineage(directory, before.descend(directory.name, {"stage": "export"}))
    return Checkpoint.open(directory)
