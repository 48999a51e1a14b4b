"""Weights that compressed-tensors has stored are read as they were meant, or refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2AudioProcessor

from compress.checkpoint import Checkpoint
from compress.errors import CheckpointError
from compress.weights import compressed_tensors, schemes, storage
from compress.weights.key_layout import memory_name
from compress.weights.size import Layout, measure
from compress.weights.storage import Form
from tests.compress import narrow, rounded
from tests.compress.weights.test_size import assert_as_planned

UP = "language_model.model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def source(processor: Qwen2AudioProcessor, tmp_path: Path) -> Checkpoint:
    return narrow.checkpoint(processor, tmp_path / "narrow")


def test_eight_integers_lie_in_an_int32_the_first_one_lowest() -> None:
    packed = torch.tensor([[0x76543210, -0x01234568]], dtype=torch.int32)
    values = compressed_tensors.unpack(packed, (1, 16))
    assert values[0, :8].tolist() == [-8, -7, -6, -5, -4, -3, -2, -1]
    assert values[0, 8:].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [64, 33])
def test_what_is_packed_is_unpacked(bits: int, columns: int) -> None:
    torch.manual_seed(0)
    values = torch.randint(-(1 << bits - 1), 1 << bits - 1, (5, columns))
    assert torch.equal(compressed_tensors.unpack(rounded.pack(values, bits), (5, columns)).long(), values)


@pytest.mark.parametrize(("layout", "error"), [("w4a16", 0.15), ("int8", 0.01), ("fp8", 0.05)])
def test_a_checkpoint_is_read_as_it_was_up_to_rounding(
    layout: schemes.Layout, error: float, source: Checkpoint, tmp_path: Path
) -> None:
    made = rounded.checkpoint(source, tmp_path / layout, layout)
    model = made.load_model("cpu", torch.float32)
    assert not hasattr(model.config, "quantization_config")
    wanted, found = narrow.tensors(source.path), model.state_dict()
    for name, tensor in wanted.items():
        read = found[memory_name(name)].bfloat16()
        if schemes.covers(name, tuple(tensor.shape)):
            distance = (read.float() - tensor.float()).norm() / tensor.float().norm()
            assert 0 < distance < error, name
        else:
            assert torch.equal(read, tensor), name


def test_embeddings_in_int8_are_read_as_they_were_up_to_rounding(source: Checkpoint, tmp_path: Path) -> None:
    made = rounded.checkpoint(source, tmp_path / "fp8", "fp8", "int8")
    found, wanted = made.load_model("cpu", torch.float32).state_dict(), narrow.tensors(source.path)
    for name in schemes.EMBEDDINGS:
        read, plain = found[memory_name(name)], wanted[name].float()
        # half a step of its row's scale, and what bf16 takes from the product
        assert ((read - plain).abs() <= 0.51 * plain.abs().amax(1, keepdim=True) / 127 + plain.abs() / 256).all()
        assert not torch.equal(read, plain)


def test_rows_are_rounded_to_the_nearest_of_127_steps() -> None:
    weight = torch.tensor([[127.0, -127.0, 0.4, -0.6, 1.5], [0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.bfloat16)
    parts = compressed_tensors.quantise(weight)
    assert parts[schemes.SCALE].dtype == torch.bfloat16
    assert parts[schemes.SCALE][0].tolist() == [1]
    assert parts[schemes.SCALE][1] > 0
    values = torch.tensor([[127, -127, 0, -1, 2], [0] * 5])
    assert torch.equal(parts[schemes.PACKED], rounded.pack(values, 8))
    assert parts[schemes.SHAPE].tolist() == [2, 5]
    assert torch.equal(compressed_tensors.dequantise("x.weight", parts), values.bfloat16())


@pytest.mark.parametrize("embeddings", get_args(schemes.Embeddings))
@pytest.mark.parametrize("layout", schemes.LAYOUTS)
def test_it_is_as_big_as_planned(
    layout: schemes.Layout, embeddings: schemes.Embeddings, source: Checkpoint, tmp_path: Path
) -> None:
    made = rounded.checkpoint(source, tmp_path / layout, layout, embeddings)
    assert_as_planned(made.path, Layout(layout), embeddings)
    assert measure(made.path).logical_parameters == measure(source.path).logical_parameters


def test_generation_settings_are_kept(source: Checkpoint, tmp_path: Path) -> None:
    made = rounded.checkpoint(source, tmp_path / "fp8", "fp8")
    (made.path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert made.load_model("cpu", torch.bfloat16).generation_config.eos_token_id == [2, 7]


@pytest.mark.parametrize(
    ("lost", "complaint"),
    [
        (schemes.SCALE, "of .*up_proj.weight there are only weight_packed, weight_shape"),
        (schemes.SHAPE, "there are only weight_packed, weight_scale"),
    ],
)
def test_lost_parts_are_named(lost: str, complaint: str, source: Checkpoint, tmp_path: Path) -> None:
    made = rounded.checkpoint(source, tmp_path / "w4a16", "w4a16")
    held = load_file(made.path / storage.WEIGHTS)
    del held[UP + lost]
    save_file(held, made.path / storage.WEIGHTS)
    with pytest.raises(CheckpointError, match=complaint):
        compressed_tensors.read(made.path)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CheckpointError, match="hold no 4 × 100 integers of 4 or 8 bits"):
        compressed_tensors.unpack(torch.zeros(4, 3, dtype=torch.int32), (4, 100))
    parts = {"": torch.zeros(4, 6, dtype=torch.int8), schemes.SCALE: torch.ones(4, 4)}
    with pytest.raises(CheckpointError, match=r"x\.weight of shape \(4, 6\) cannot have scales of \(4, 4\)"):
        compressed_tensors.dequantise("x.weight", parts)


def test_it_is_not_brought_into_another_form(source: Checkpoint, tmp_path: Path) -> None:
    made = rounded.checkpoint(source, tmp_path / "int8", "int8")
    with pytest.raises(CheckpointError, match="format of compressed-tensors, which is not brought into another form"):
        storage.rewrite(made, tmp_path / "out", Form(None, torch.bfloat16))
