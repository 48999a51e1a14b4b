"""How big a checkpoint is, or would be: parameters, stored elements and bytes, by group and by dtype.

A measured checkpoint is a list of tensor entries read from safetensors headers, a planned one is the same list
made from a configuration; everything after that is one code path.  The paper's "Params" of a 4-bit model is the
number of elements stored in its files without the adapter, its "Storage" those files with the adapter (footnote 5).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Any, Final

from compress.errors import CheckpointError, RecipeError
from compress.weights import schemes
from compress.weights.architectures import Architecture, Shape, is_linear
from compress.weights.entries import NF4_STATE, Entry, n_weights, read_header
from compress.weights.schemes import Embeddings

GROUPS: Final = ("audio tower", "projector", "embeddings", "decoder", "lm_head", "adapter", "other")
LORA_RANK: Final = 64

# bitsandbytes: weights a scale belongs to, and scales a scale of scales belongs to.
_NF4_BLOCK: Final = 64
_NF4_NESTED_BLOCK: Final = 256
# The one number of the state that the weights decide. A plan's is as long as most are, real ones differ by some bytes.
_TYPICAL_OFFSET: Final = 0.05204264447093012


class Layout(StrEnum):
    """How a planned checkpoint stores its tensors."""

    BF16 = "bf16"
    PAPER = "paper"
    COMPACT = "compact"
    W4A16 = "w4a16"
    INT8 = "int8"
    FP8 = "fp8"


@dataclass
class Share:
    """What one group or one dtype holds: logical parameters, stored elements, bytes."""

    logical: int = 0
    stored: int = 0
    n_bytes: int = 0


@dataclass(frozen=True)
class Size:
    """The size of one checkpoint.

    Attributes:
        groups: share of each of `GROUPS` that is there.
        dtypes: share of each dtype that is there.
        file_bytes: the safetensors files with their headers; None when planned.
        directory_bytes: everything in the directory; None when planned.
    """

    name: str
    groups: dict[str, Share]
    dtypes: dict[str, Share]
    file_bytes: int | None = None
    directory_bytes: int | None = None

    @property
    def logical_parameters(self) -> int:
        """Weights of the model that is stored; an adapter adds none, it changes those that are there."""
        return sum(share.logical for share in self.groups.values())

    @property
    def stored_elements(self) -> int:
        """Elements in the files without the adapter: the paper's "Params"."""
        return sum(share.stored for group, share in self.groups.items() if group != "adapter")

    @property
    def adapter_elements(self) -> int:
        """Elements of the adapter; LoRA's parameters."""
        return self.groups["adapter"].stored if "adapter" in self.groups else 0

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors with the adapter: the paper's "Storage", to which headers add some thousandths."""
        return sum(share.n_bytes for share in self.groups.values())

    @property
    def bits_per_weight(self) -> float | None:
        """Bits stored for each logical weight, adapter included; None where only an adapter is stored."""
        return 8 * self.tensor_bytes / self.logical_parameters if self.logical_parameters else None

    def to_json(self) -> dict[str, Any]:
        """Every figure, ready for `json.dumps`."""
        return {
            "name": self.name,
            "logical_parameters": self.logical_parameters,
            "stored_elements": self.stored_elements,
            "adapter_elements": self.adapter_elements,
            "tensor_bytes": self.tensor_bytes,
            "storage_gb": self.tensor_bytes / 1e9,
            "bits_per_weight": self.bits_per_weight,
            "file_bytes": self.file_bytes,
            "directory_bytes": self.directory_bytes,
            "groups": {name: vars(share) for name, share in self.groups.items()},
            "dtypes": {name: vars(share) for name, share in self.dtypes.items()},
        }


def measure(directory: str | Path) -> Size:
    """The size of a checkpoint directory, from the headers of its safetensors files.

    An adapter counts where peft writes one: in the directory, or in a folder of it that has an adapter_config.json.

    Raises:
        CheckpointError: no directory, no safetensors, a damaged file, or weights in a format that is not counted.
    """
    path = Path(directory).expanduser()
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint directory at {directory}")
    folders = [path, *sorted(config.parent for config in path.glob("*/adapter_config.json"))]
    files = [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]
    if not files:
        raise CheckpointError(f"{directory} holds no *.safetensors weights")
    held: dict[str, Path] = {}
    entries = []
    for file in files:
        for entry in read_header(file):
            if entry.name in held:
                raise CheckpointError(f"{entry.name} is in both {held[entry.name]} and {file}: one of them is stale")
            held[entry.name] = file
            entries.append(entry)
    return summarise(
        path.resolve().name,
        entries,
        file_bytes=sum(file.stat().st_size for file in files),
        directory_bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
    )


def plan_size(architecture: Architecture, layout: Layout, embeddings: Embeddings = "bf16") -> Size:
    """The size that a checkpoint of this architecture will have in this layout.

    Raises:
        RecipeError: see `planned_entries`.
    """
    layers = f"{architecture.n_tower_layers}/{architecture.n_layers}"
    form = f"{layout}, int8 embeddings" if embeddings == "int8" else layout
    return summarise(f"{architecture.name}, {layers} layers, {form}", planned_entries(architecture, layout, embeddings))


def planned_entries(architecture: Architecture, layout: Layout, embeddings: Embeddings = "bf16") -> list[Entry]:
    """The entries of a checkpoint in that layout, adapter included.

    Raises:
        RecipeError: int8 embeddings in a layout that has none.
    """
    entries = list(_LAYOUTS[layout](architecture))
    if embeddings == "bf16":  # or what the layout itself says
        return entries
    if layout not in schemes.LAYOUTS:
        raise RecipeError(f"embeddings int8 are for layouts {', '.join(schemes.LAYOUTS)}, not for {layout}")
    apart = [
        _packed(one.name, one.shape, bits=8, n_scales=1) if one.name in schemes.EMBEDDINGS else [one] for one in entries
    ]
    return list(chain.from_iterable(apart))


def summarise(
    name: str, entries: Iterable[Entry], *, file_bytes: int | None = None, directory_bytes: int | None = None
) -> Size:
    """Adds entries up, by group and by dtype.

    Raises:
        CheckpointError: a tensor whose logical weights its format hides.
    """
    known = {entry.name: entry for entry in entries}
    groups: defaultdict[str, Share] = defaultdict(Share)
    dtypes: defaultdict[str, Share] = defaultdict(Share)
    for entry in known.values():
        group = group_of(entry.name)
        counted = n_weights(entry, known)
        logical = 0 if group == "adapter" else counted
        for share in (groups[group], dtypes[entry.dtype]):
            share.logical += logical
            share.stored += entry.n_elements
            share.n_bytes += entry.n_bytes
    by_bytes = sorted(dtypes.items(), key=lambda item: -item[1].n_bytes)
    ordered = {group: groups[group] for group in GROUPS if group in groups}
    return Size(name, ordered, dict(by_bytes), file_bytes, directory_bytes)


def group_of(name: str) -> str:
    """Which of `GROUPS` a tensor belongs to, in hub layout or in the names that transformers has in memory."""
    parts = name.split(".")
    if parts[0] == "base_model" or "lora_A" in parts or "lora_B" in parts:
        return "adapter"
    for part, group in (
        ("audio_tower", "audio tower"),
        ("multi_modal_projector", "projector"),
        ("embed_tokens", "embeddings"),
        ("lm_head", "lm_head"),
        ("language_model", "decoder"),
    ):
        if part in parts:
            return group
    return "other"


def _bf16(architecture: Architecture) -> Iterator[Entry]:
    return (Entry(name, shape, "BF16") for name, shape in architecture.shapes().items())


def _w4a16(architecture: Architecture) -> Iterator[Entry]:
    """The decoder's linear modules in packed 4-bit integers, as compressed-tensors saves them."""
    group = schemes.group_size(architecture)
    for name, shape in architecture.shapes().items():
        if not schemes.covers(name, shape):
            yield Entry(name, shape, "BF16")
            continue
        yield from _packed(name, shape, bits=4, n_scales=shape[1] // group)


def _packed(name: str, shape: Shape, bits: int, n_scales: int) -> Iterator[Entry]:
    """A weight in packed integers, so many scales a row."""
    rows, columns = shape
    yield Entry(name + schemes.PACKED, (rows, math.ceil(columns * bits / 32)), "I32", shape)
    yield Entry(name + schemes.SCALE, (rows, n_scales), "BF16")
    yield Entry(name + schemes.SHAPE, (2,), "I64")


def _8_bits(architecture: Architecture, dtype: str) -> Iterator[Entry]:
    """The decoder's linear modules in 8 bits with a scale a row."""
    for name, shape in architecture.shapes().items():
        covered = schemes.covers(name, shape)
        yield Entry(name, shape, dtype if covered else "BF16")
        if covered:
            yield Entry(name + schemes.SCALE, (shape[0], 1), "BF16")


def _qlora(architecture: Architecture, rest: str) -> Iterator[Entry]:
    """Linear modules in nf4 with double quantisation and a LoRA each, as bitsandbytes and peft save them."""
    for name, shape in architecture.shapes().items():
        if not is_linear(name, shape):
            yield Entry(name, shape, rest)
            continue
        n_scales = math.ceil(math.prod(shape) / _NF4_BLOCK)
        yield Entry(name, (math.ceil(math.prod(shape) / 2), 1), "U8")
        yield Entry(f"{name}.absmax", (n_scales,), "U8")
        yield Entry(f"{name}.quant_map", (16,), "F32")
        yield Entry(f"{name}.nested_absmax", (math.ceil(n_scales / _NF4_NESTED_BLOCK),), "F32")
        yield Entry(f"{name}.nested_quant_map", (256,), "F32")
        yield Entry(name + NF4_STATE, (len(_nf4_state(shape)),), "U8")
        module = _in_memory(name).removesuffix(".weight")
        yield Entry(f"base_model.model.{module}.lora_A.weight", (LORA_RANK, shape[1]), rest)
        yield Entry(f"base_model.model.{module}.lora_B.weight", (shape[0], LORA_RANK), rest)


def _nf4_state(shape: Shape) -> str:
    return json.dumps({
        "quant_type": "nf4",
        "blocksize": _NF4_BLOCK,
        "dtype": "bfloat16",
        "shape": shape,
        "nested_blocksize": _NF4_NESTED_BLOCK,
        "nested_dtype": "float32",
        "nested_offset": _TYPICAL_OFFSET,
    })  # fmt: skip


def _in_memory(hub_name: str) -> str:
    """The name that transformers 5 has in memory, which peft's keys repeat."""
    if hub_name.startswith("language_model.model."):
        return f"model.language_model.{hub_name.removeprefix('language_model.model.')}"
    return f"model.{hub_name}"


_LAYOUTS: Final[dict[Layout, Callable[[Architecture], Iterator[Entry]]]] = {
    Layout.BF16: _bf16,
    Layout.PAPER: lambda architecture: _qlora(architecture, "F32"),
    Layout.COMPACT: lambda architecture: _qlora(architecture, "BF16"),
    Layout.W4A16: _w4a16,
    Layout.INT8: lambda architecture: _8_bits(architecture, "I8"),
    Layout.FP8: lambda architecture: _8_bits(architecture, "F8_E4M3"),
}
