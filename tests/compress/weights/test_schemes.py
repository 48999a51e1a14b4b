"""The layouts that vLLM has kernels for: what they quantise, in which groups, and how that is said."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from compress.checkpoint import POCKET
from compress.errors import CheckpointError
from compress.weights import schemes
from compress.weights.architectures import QWEN2_AUDIO_7B, Architecture


def test_the_decoders_linear_modules_are_quantised() -> None:
    covered = [name for name, shape in QWEN2_AUDIO_7B.shapes().items() if schemes.covers(name, shape)]
    assert len(covered) == 7 * 32
    assert all(".layers." in name and "_proj.weight" in name for name in covered)
    assert not any("audio_tower" in name for name in covered)


@pytest.mark.parametrize(
    ("architecture", "group"),
    [(QWEN2_AUDIO_7B, 128), (Architecture.read(POCKET), 64), (replace(QWEN2_AUDIO_7B, ffn=32), 32)],
)
def test_a_group_is_as_large_as_the_widths_allow(architecture: Architecture, group: int) -> None:
    assert schemes.group_size(architecture) == group
    assert schemes.scheme("w4a16", architecture)["weights"]["group_size"] == group


def test_widths_that_no_group_divides_are_named_and_other_layouts_too() -> None:
    odd = replace(QWEN2_AUDIO_7B, ffn=48)
    with pytest.raises(CheckpointError, match="decoder has 48, 4096: choose int8 or fp8"):
        schemes.scheme("w4a16", odd)
    assert schemes.scheme("int8", odd)["input_activations"]["dynamic"]


@pytest.mark.parametrize(("layout", "bits"), [("w4a16", 4), ("int8", 8), ("fp8", None)])
def test_integers_are_known_from_the_settings(layout: schemes.Layout, bits: int | None) -> None:
    groups = {"group_0": schemes.scheme(layout, QWEN2_AUDIO_7B)}
    assert schemes.integer_bits({"quant_method": schemes.METHOD, "config_groups": groups}) == bits
    assert schemes.integer_bits({"quant_method": "bitsandbytes", "config_groups": groups}) is None
    assert schemes.integer_bits(None) is None


@pytest.mark.parametrize(
    ("layout", "own", "general"),
    [
        ("w4a16", "pack-quantized", "pack-quantized"),
        ("int8", "int-quantized", "mixed-precision"),
        ("fp8", "float-quantized", "mixed-precision"),
    ],
)
def test_embeddings_are_a_group_beside_the_layouts(layout: schemes.Layout, own: str, general: str) -> None:
    plain = {
        "quant_method": schemes.METHOD,
        "format": own,
        "config_groups": {"group_0": schemes.scheme(layout, QWEN2_AUDIO_7B)},
        "ignore": list(schemes.IGNORED),
    }
    found = schemes.with_int8_embeddings(plain)
    decoder, embeddings = found["config_groups"].values()
    assert (found["format"], decoder["format"], embeddings["format"]) == (general, own, "pack-quantized")
    assert decoder | {"targets": ["Linear"]} == decoder
    ends = [name.removesuffix(".weight") for name in schemes.EMBEDDINGS]
    patterns = [target.removeprefix("re:") for target in embeddings["targets"]]
    modules = {name.removesuffix(".weight") for name in QWEN2_AUDIO_7B.shapes()}
    assert {one for one in modules if any(re.match(pattern, one) for pattern in patterns)} == set(ends)
    assert not any(re.match(entry.removeprefix("re:"), end) for entry in found["ignore"] for end in ends)
    assert not schemes.has_weight_only_int8(plain)
    assert schemes.has_weight_only_int8(found)


def test_parts_are_known_by_their_names() -> None:
    layer = "language_model.model.layers.0.mlp.up_proj.weight"
    assert schemes.compressed([layer + schemes.PACKED, layer + schemes.SCALE, "audio_tower.conv1.weight"]) == {layer}
    assert schemes.weight_of(layer) is None
