"""Weights as the package compressed-tensors stores them, read and rounded without that package; see `schemes`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from compress.attention import GROUPED
from compress.errors import CheckpointError
from compress.weights import schemes
from compress.weights.architectures import Shape
from compress.weights.key_layout import hub_name
from compress.weights.schemes import PACKED, PACKED_TOGETHER, SCALE, SHAPE

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration

_LARGEST: Final = 127  # what a row's largest weight becomes; -128 has no counterpart


def load(directory: Path, dtype: torch.dtype) -> Qwen2AudioForConditionalGeneration:
    """A checkpoint's model with plain weights, on the CPU.

    Raises:
        CheckpointError: see `read`.
    """
    from transformers import GenerationConfig, Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    config = Qwen2AudioConfig.from_pretrained(directory, local_files_only=True)
    del config.quantization_config
    model: Qwen2AudioForConditionalGeneration = Qwen2AudioForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=read(directory), dtype=dtype, attn_implementation=GROUPED
    )
    if (directory / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(directory, local_files_only=True)
    return model


def read(directory: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by their names in hub layout, plain.

    Raises:
        CheckpointError: a damaged file, parts that are missing, or a form that this package does not write.
    """
    held: dict[str, Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is no readable safetensors file: {error}") from error
        held |= {hub_name(name): tensor for name, tensor in tensors.items()}
    for name in schemes.compressed(held):
        found = [suffix for suffix in ("", PACKED, SCALE, SHAPE) if name + suffix in held]
        held[name] = dequantise(name, {suffix: held.pop(name + suffix) for suffix in found})
    return held


def dequantise(name: str, parts: Mapping[str, Tensor]) -> Tensor:
    """A weight of shape (rows, columns) in its scales' dtype, from its parts by what follows `.weight` in their names.

    Raises:
        CheckpointError: parts are missing, or of a form that this package does not write; `name` is the weight's.
    """
    scale, packed, values = parts.get(SCALE), parts.get(PACKED), parts.get("")
    if packed is not None and SHAPE in parts:
        values = unpack(packed, tuple(parts[SHAPE].tolist()))
    if scale is None or values is None:
        raise CheckpointError(f"of {name} there are only {', '.join('weight' + each for each in sorted(parts))}")
    rows, columns = values.shape
    if scale.ndim != 2 or scale.shape[0] != rows or columns % scale.shape[1]:
        raise CheckpointError(f"{name} of shape {tuple(values.shape)} cannot have scales of {tuple(scale.shape)}")
    by_group = values.to(scale.dtype).reshape(rows, scale.shape[1], -1)
    return (by_group * scale[..., None]).reshape(rows, columns)


def unpack(packed: Tensor, shape: Shape) -> Tensor:
    """Integers of shape (rows, columns) as int8, from int32 that hold as many of a row's as fit, the first one lowest.

    Raises:
        CheckpointError: so many do not fit into these.
    """
    rows, columns = shape
    for each, bits in PACKED_TOGETHER.items():
        if packed.shape == (rows, -(-columns // each)):
            mask, zero = (1 << bits) - 1, 1 << bits - 1
            # one place at a time: a vocabulary's weights as int32 would be gigabytes
            places = [((packed >> low & mask) - zero).to(torch.int8) for low in range(0, 32, bits)]
            return torch.stack(places, -1).reshape(rows, -1)[:, :columns]
    raise CheckpointError(f"int32 of shape {tuple(packed.shape)} hold no {rows} × {columns} integers of 4 or 8 bits")


def quantise(weight: Tensor) -> dict[str, Tensor]:
    """A weight of shape (rows, columns) in packed int8, a scale a row; parts by what follows `.weight` in their names.

    Rounded to the nearest value that the scale, itself rounded to bf16, allows.
    """
    exact = weight.float()
    tiniest = torch.finfo(torch.bfloat16).tiny  # a row of zeros has a scale, too
    scale = (exact.abs().amax(1, keepdim=True) / _LARGEST).clamp(min=tiniest).bfloat16()
    values = (exact / scale.float()).round().clamp(-_LARGEST, _LARGEST)
    return {PACKED: pack(values), SCALE: scale, SHAPE: torch.tensor(weight.shape)}


def pack(values: Tensor) -> Tensor:
    """Integers of shape (rows, columns), from -128 to 127, in int32 that hold four of a row's, the first one lowest."""
    padded = torch.nn.functional.pad(values + 128, (0, -values.shape[1] % 4))
    return padded.to(torch.uint8).view(torch.int32)
