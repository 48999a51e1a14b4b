"""Tensors as the headers of safetensors files describe them, and how many of a model's weights each of them holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from compress.errors import CheckpointError
from compress.weights.architectures import Shape
from compress.weights.schemes import PACKED, SCALE, SHAPE, weight_of

# Bytes of an element. Of some, how many weights they stand for, depends on what lies beside them.
_PLAIN: Final = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
_SCALED: Final = ("I8", "F8_E4M3")
_WIDTHS: Final = {**_PLAIN, "U8": 1, "I8": 1, "F8_E4M3": 1, "I32": 4, "I64": 8}

NF4_STATE: Final = ".quant_state.bitsandbytes__nf4"
_NF4_COMPANIONS: Final = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", NF4_STATE)


@dataclass(frozen=True)
class Entry:
    """One tensor as a safetensors header describes it.

    Attributes:
        dtype: safetensors' name, such as `BF16`.
        holds: of integers that compressed-tensors has packed, the shape of the weight that they hold.
    """

    name: str
    shape: Shape
    dtype: str
    holds: Shape | None = None

    @property
    def n_elements(self) -> int:
        """Elements stored: for packed weights fewer than the weights they hold."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensor itself, without its part of the header."""
        return self.n_elements * _WIDTHS[self.dtype]


def read_header(file: Path) -> list[Entry]:
    """The tensors of one safetensors file; no weight is read, but the two numbers that say what a packed one holds.

    Raises:
        CheckpointError: not safetensors, or cut short.
    """
    try:
        with safe_open(file, framework="np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            of_packed = [name for name in slices if name.endswith(f".weight{SHAPE}")]
            shapes = {name: tuple(opened.get_tensor(name).tolist()) for name in of_packed}
            return [
                Entry(name, tuple(part.get_shape()), part.get_dtype(), _held(name, shapes))
                for name, part in slices.items()
            ]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is no readable safetensors file: {error}") from error


def n_weights(entry: Entry, known: Mapping[str, Entry]) -> int:
    """How many weights of the model a tensor holds; those that belong to a quantised weight hold none.

    Args:
        entry: the tensor.
        known: all of its checkpoint, by name.

    Raises:
        CheckpointError: its format hides that.
    """
    if _is_companion(entry, known):
        return 0
    if entry.name + NF4_STATE in known:
        return 2 * entry.n_elements  # two weights a byte
    if entry.holds is not None:
        return math.prod(entry.holds)
    if entry.dtype not in _PLAIN and not (entry.dtype in _SCALED and entry.name + SCALE in known):
        raise CheckpointError(
            f"{entry.name} is stored as {entry.dtype}; what can be counted is BF16, F16, F32, F64, bitsandbytes nf4 "
            "and what compressed-tensors keeps in int4, int8 and fp8"
        )
    return entry.n_elements


def _is_companion(entry: Entry, known: Mapping[str, Entry]) -> bool:
    """Whether it belongs to a quantised weight and holds none itself."""
    nf4 = entry.name.rpartition(".weight.")[0] + ".weight"
    if entry.name.endswith(_NF4_COMPANIONS):
        return nf4 + NF4_STATE in known
    weight = weight_of(entry.name)
    return weight is not None and not entry.name.endswith(PACKED) and (weight in known or weight + PACKED in known)


def _held(name: str, shapes: dict[str, Shape]) -> Shape | None:
    """The shape of the weight that a tensor holds if it is packed, among those of the file."""
    return shapes.get(name.removesuffix(PACKED) + SHAPE) if name.endswith(PACKED) else None
