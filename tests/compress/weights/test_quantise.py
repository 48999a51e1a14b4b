"""4-bit weights against what transformers and bitsandbytes make, and against their definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BitsAndBytesConfig, Qwen2AudioProcessor

from compress.weights import quantise
from compress.weights.architectures import QWEN2_AUDIO_7B, is_linear
from compress.weights.quantise import Modules
from tests.compress import narrow

BLOCK = 64
# half of the widest gap between two values of nf4, in units of a block's largest weight
WORST = 0.1520


def weights(rows: int = 96, columns: int = 128) -> Tensor:
    """Blocks of different size, in bf16."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(1, 2, rows)[:, None]
    return (scale * torch.randn(rows, columns, generator=generator)).to(torch.bfloat16)


@pytest.mark.parametrize("double", [True, False])
def test_the_bytes_are_those_that_transformers_stores(
    double: bool, processor: Qwen2AudioProcessor, tmp_path: Path
) -> None:
    source = narrow.checkpoint(processor, tmp_path / "bf16")
    narrow.quantised(source, double).save_pretrained(tmp_path / "nf4")
    wanted, plain = narrow.tensors(tmp_path / "nf4"), narrow.tensors(source.path)
    linears = [name for name, tensor in plain.items() if is_linear(name, tuple(tensor.shape))]
    assert len(linears) == narrow.N_LINEARS
    for name in linears:
        parts = {f"{name}{suffix}": part for suffix, part in quantise.quantise(plain[name], double).items()}
        assert quantise.is_quantised(quantise.quantise(plain[name], double))
        narrow.assert_same_bits(parts, {key: tensor for key, tensor in wanted.items() if key.startswith(name)})


def test_a_weight_comes_back_near_what_it_was() -> None:
    weight = weights()
    found = quantise.dequantise(quantise.quantise(weight, double=True))
    assert found.dtype == torch.bfloat16
    assert found.shape == weight.shape
    largest = weight.float().reshape(-1, BLOCK).abs().amax(1, keepdim=True)
    error = (found.float() - weight.float()).reshape(-1, BLOCK).abs() / largest
    assert error.max() < WORST + 0.015  # the scales are rounded, too
    assert error.mean() > 0.01


def test_parts_mean_what_the_format_says() -> None:
    """The definition: two codes a byte, the first in the upper half, each a value of the table times the scale."""
    weight = weights()
    parts = quantise.quantise(weight, double=False)
    codes = torch.stack([parts[""] >> 4, parts[""] & 0xF], -1).reshape(-1, BLOCK).long()
    by_hand = parts[".quant_map"][codes] * parts[".absmax"][:, None]
    found = quantise.dequantise(parts).float()
    torch.testing.assert_close(found, by_hand.reshape(weight.shape), rtol=2**-7, atol=0)


def test_fp32_weights_are_quantised_as_bf16() -> None:
    weight = weights()
    narrow.assert_same_bits(quantise.quantise(weight.float(), True), quantise.quantise(weight, True))


def test_no_two_parts_share_memory() -> None:
    """Safetensors would refuse to store them."""
    parts = [*quantise.quantise(weights(), True).values(), *quantise.quantise(weights(), True).values()]
    assert len({part.data_ptr() for part in parts}) == len(parts)


def test_plain_parts_are_not_quantised() -> None:
    assert not quantise.is_quantised({"": weights()})


@pytest.mark.parametrize(("modules", "count"), [("all", 417), ("decoder", 7 * 32)])
def test_linear_modules_of_the_true_model_are_counted(modules: Modules, count: int) -> None:
    shapes = QWEN2_AUDIO_7B.shapes()
    assert sum(quantise.covers(modules, name, shape) for name, shape in shapes.items()) == count


def test_the_settings_say_what_transformers_reads_back() -> None:
    settings = quantise.settings("decoder", double=True)
    config = BitsAndBytesConfig.from_dict(dict(settings))
    assert config.quantization_method() == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert config.llm_int8_skip_modules == ["model.audio_tower", "model.multi_modal_projector", "lm_head"]
    assert settings["quant_method"] == "bitsandbytes"
    assert quantise.settings("all", double=False)["llm_int8_skip_modules"] == ["lm_head"]
    assert not quantise.settings("all", double=False)["bnb_4bit_use_double_quant"]
