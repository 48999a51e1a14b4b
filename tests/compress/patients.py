"""Sound checkpoints for the doctor to examine, and what can go wrong with them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2AudioProcessor

from compress import doctor
from compress.checkpoint import Checkpoint
from compress.checks.patient import ENGINES, EngineName
from compress.weights import storage
from compress.weights.storage import Form
from tests.compress import narrow, rounded

Kind = Literal["plain", "nf4", "lora", "w4a16", "fp8", "w4a16-e8", "fp8-e8"]
Spoil = Callable[[Path], None]

BOTH: tuple[EngineName, ...] = ENGINES
VLLM: tuple[EngineName, ...] = ("vllm",)
TRANSFORMERS: tuple[EngineName, ...] = ("transformers",)
ADAPTER = "adapter/adapter_config.json"
FACTORS = "adapter/adapter_model.safetensors"


def admit(kind: Kind, processor: Qwen2AudioProcessor, folder: Path) -> Path:
    """A sound checkpoint: plain, with the decoder in 4 bits (which vLLM can serve), that and adapted, or rounded."""
    plain, form = folder / "plain", Form("decoder", torch.bfloat16)
    source = Checkpoint.open(plain) if plain.exists() else narrow.checkpoint(processor, plain)
    match kind:
        case "plain":
            return plain
        case "nf4":
            storage.rewrite(source, folder / "nf4", form)
            return folder / "nf4"
        case "lora":
            pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")
            return narrow.adapted(source, folder / "lora", narrow.stage(modules="decoder"), form).path
        case "w4a16" | "fp8":
            return rounded.checkpoint(source, folder / kind, kind).path
        case "w4a16-e8" | "fp8-e8":
            return rounded.checkpoint(source, folder / kind, "w4a16" if kind == "w4a16-e8" else "fp8", "int8").path


@dataclass(frozen=True)
class Ailment:
    """Something that goes wrong with a sound checkpoint.

    Attributes:
        kind: of the checkpoint.
        spoil: makes it go wrong.
        check: that of the doctor which finds it first.
        message: what is found, a regular expression.
        blocked: the engines that it keeps from serving the checkpoint.
    """

    kind: Kind
    spoil: Spoil
    check: str
    message: str
    blocked: tuple[EngineName, ...]

    def __str__(self) -> str:
        return self.check

    def assert_found(self, path: Path) -> None:
        """Spoils the checkpoint and has it examined."""
        self.spoil(path)
        report = doctor.examine(path)
        assert report.checks[self.check], f"{self.check} found nothing"
        (first, *_) = report.checks[self.check]
        assert re.search(self.message, first.message), first.message
        assert first.blocks == self.blocked
        for engine in report.engines:
            assert engine.serves == (engine.name not in self.blocked)
            assert (first.message in engine.reasons) == (engine.name in self.blocked)


@contextmanager
def rewritten(path: Path, file: str = "config.json") -> Iterator[dict[str, Any]]:
    """The content of a file of JSON, to be changed."""
    content: dict[str, Any] = json.loads((path / file).read_text())
    yield content
    (path / file).write_text(json.dumps(content))


def configure(section: str | None = None, /, file: str = "config.json", **values: Any) -> Spoil:
    """Other settings in a file, or in one of its sections."""

    def spoil(path: Path) -> None:
        with rewritten(path, file) as content:
            (content if section is None else content[section]).update(values)

    return spoil


def rename(change: Callable[[str], str | None], file: str = "model.safetensors") -> Spoil:
    """Other names for the tensors of a file; None takes one out."""

    def spoil(path: Path) -> None:
        held = {change(name): tensor.clone() for name, tensor in load_file(path / file).items()}
        kept: dict[str, Tensor] = {name: tensor for name, tensor in held.items() if name is not None}
        save_file(kept, path / file)

    return spoil


def replace(old: str, new: str, file: str = "model.safetensors") -> Spoil:
    """Another word in the names of tensors."""
    return rename(lambda name: name.replace(old, new), file)


def lose(part: str, file: str = "model.safetensors") -> Spoil:
    """No tensors with that in their names."""
    return rename(lambda name: None if part in name else name, file)


def delete(file: str) -> Spoil:
    return lambda path: (path / file).unlink()


def overwrite(file: str, content: bytes = b"") -> Spoil:
    def spoil(path: Path) -> None:
        (path / file).write_bytes(content)

    return spoil
