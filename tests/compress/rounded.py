"""Checkpoints in the layouts that llm-compressor writes, rounded to the nearest value without it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from compress.checkpoint import Checkpoint
from compress.weights import compressed_tensors, schemes, storage
from compress.weights.architectures import Architecture
from compress.weights.schemes import Embeddings, Layout
from tests.compress import narrow

FORMATS: Final[dict[Layout, str]] = {"w4a16": "pack-quantized", "int8": "int-quantized", "fp8": "float-quantized"}


def checkpoint(source: Checkpoint, directory: Path, layout: Layout, embeddings: Embeddings = "bf16") -> Checkpoint:
    """A plain checkpoint in another layout; its lineage is the same."""
    architecture = Architecture.read(source.path)
    shutil.copytree(source.path, directory)
    tensors: dict[str, Tensor] = {}
    for name, tensor in narrow.tensors(source.path).items():
        if embeddings == "int8" and name in schemes.EMBEDDINGS:
            tensors |= {name + suffix: part for suffix, part in compressed_tensors.quantise(tensor).items()}
            continue
        covered = schemes.covers(name, tuple(tensor.shape))
        tensors |= parts(name, tensor, layout, schemes.group_size(architecture)) if covered else {name: tensor}
    save_file(tensors, directory / storage.WEIGHTS, metadata={"format": "pt"})
    settings: dict[str, Any] = {
        "quant_method": schemes.METHOD,
        "format": FORMATS[layout],
        "config_groups": {"group_0": schemes.scheme(layout, architecture)},
        "ignore": list(schemes.IGNORED),
    }
    if embeddings == "int8":
        settings = schemes.with_int8_embeddings(settings)
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": settings}))
    return Checkpoint.open(directory)


def parts(name: str, weight: Tensor, layout: Layout, group: int) -> dict[str, Tensor]:
    """A weight of shape (rows, columns) as compressed-tensors names and stores its parts."""
    largest = {"w4a16": 7.5, "int8": 127.5, "fp8": 448.0}[layout]
    by_group = weight.float().reshape(len(weight), -1, group if layout == "w4a16" else weight.shape[1])
    scale = (by_group.abs().amax(-1) / largest).bfloat16()
    scaled = (by_group / scale.float()[..., None]).reshape(weight.shape)
    if layout == "fp8":
        return {name: scaled.to(torch.float8_e4m3fn), f"{name}_scale": scale}
    if layout == "int8":
        return {name: scaled.round().clamp(-128, 127).to(torch.int8), f"{name}_scale": scale}
    shape = torch.tensor(weight.shape)
    packed = pack(scaled.round().clamp(-8, 7).to(torch.int32), 4)
    return {f"{name}_packed": packed, f"{name}_scale": scale, f"{name}_shape": shape}


def pack(values: Tensor, bits: int) -> Tensor:
    """Integers of shape (rows, columns) in int32, as many of a row's as fit, the first one lowest."""
    each = 32 // bits
    padded = torch.nn.functional.pad(values + (1 << bits - 1), (0, -values.shape[1] % each))
    columns = padded.long().reshape(len(values), -1, each).unbind(-1)
    whole = sum((column << bits * place for place, column in enumerate(columns)), torch.zeros_like(columns[0]))
    return torch.where(whole >= 1 << 31, whole - (1 << 32), whole).to(torch.int32)
