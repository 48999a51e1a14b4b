"""The directory that is examined, as far as it can be read, and what a check finds in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from compress.weights import schemes
from compress.weights.architectures import Architecture, Shape
from compress.weights.entries import NF4_STATE, Entry

EngineName = Literal["transformers", "vllm"]
ENGINES: Final[tuple[EngineName, ...]] = get_args(EngineName)


@dataclass(frozen=True)
class Finding:
    """Something that is the matter.

    Attributes:
        message: what it is, and what to do about it.
        blocks: the engines that it keeps from serving the checkpoint.
    """

    message: str
    blocks: tuple[EngineName, ...] = ENGINES


@dataclass
class Patient:
    """A checkpoint directory; what cannot be read stays empty, and the check that tried says so.

    Attributes:
        path: the directory.
        config: `config.json`.
        architecture: what it configures.
        stored: names of the tensors as they are in the files, an adapter's left out.
        entries: the same tensors by their names in hub layout.
        adapter: the adapter's settings.
        factors: the adapter's tensors, named after the hub's name of the module that they change.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    architecture: Architecture | None = None
    stored: list[str] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    adapter: dict[str, Any] | None = None
    factors: dict[str, Entry] = field(default_factory=dict)

    @property
    def quantisation(self) -> dict[str, Any] | None:
        """What `config.json` says about quantised weights."""
        found = self.config.get("quantization_config")
        return found if isinstance(found, dict) else None

    @property
    def nf4(self) -> set[str]:
        """Names of the weights that the files hold in nf4."""
        return {name.removesuffix(NF4_STATE) for name in self.entries if name.endswith(NF4_STATE)}

    @property
    def compressed(self) -> dict[str, Shape | None]:
        """Weights that the files hold as compressed-tensors stores them, and their shapes; None where nothing says."""
        found: dict[str, Shape | None] = {}
        for name in schemes.compressed(self.entries):
            packed = self.entries.get(name + schemes.PACKED)
            plain = self.entries.get(name)
            found[name] = packed.holds if packed else plain.shape if plain else None
        return found


def first_of(problems: list[str]) -> str:
    """The first of several problems, and how many more there are."""
    more = f", and {len(problems) - 1} more like it" if len(problems) > 1 else ""
    return problems[0] + more


def outside_the_decoder(names: Iterable[str]) -> list[str]:
    """Those tensors (their names in hub layout) that are parts of the tower or the projector, in order."""
    return sorted(name for name in names if name.startswith(("audio_tower.", "multi_modal_projector.")))
