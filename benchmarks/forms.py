"""The forms that a checkpoint can be served in, made from the pocket model and its shipped student."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Final

import torch

from compress import model
from compress.checkpoint import POCKET, Checkpoint
from compress.weights import storage
from compress.weights.storage import Form

STUDENTS: Final = POCKET.with_name("students")
STUDENT: Final = STUDENTS / "pocket-setup2-de-export"

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


def without(*layers: int) -> Make:
    """`pruned` of these layers."""
    return partial(pruned, layers)


def _rewritten(source: Path, directory: Path, form: Form) -> Checkpoint:
    before = Checkpoint.open(source)
    storage.rewrite(before, directory, form)
    storage.write_lineage(directory, before.descend(directory.name, {"stage": "export"}))
    return Checkpoint.open(directory)
