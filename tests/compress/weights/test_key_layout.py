"""Names of tensors against those that transformers has in memory and writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import Qwen2AudioProcessor

from compress.weights.architectures import QWEN2_AUDIO_7B, Architecture
from compress.weights.key_layout import KeyLayout, hub_name, layout_of, memory_name
from tests.compress import narrow

NAMES = QWEN2_AUDIO_7B.shapes()


@pytest.mark.parametrize("name", list(NAMES)[::97])
def test_names_go_to_memory_and_back(name: str) -> None:
    assert hub_name(memory_name(name)) == name
    assert hub_name(name) == name
    assert layout_of(name) is KeyLayout.HUB
    assert layout_of(memory_name(name)) is KeyLayout.MEMORY


def test_no_two_names_become_one() -> None:
    assert len({memory_name(name) for name in NAMES}) == len(NAMES)


def test_what_belongs_to_a_quantised_weight_is_renamed_with_it() -> None:
    state = "layers.3.mlp.up_proj.weight.quant_state.bitsandbytes__nf4"
    assert hub_name(f"model.language_model.{state}") == f"language_model.model.{state}"


@pytest.mark.parametrize(
    ("original", "layout"), [(True, KeyLayout.DOUBLED), (False, KeyLayout.MEMORY)], ids=["doubled", "memory"]
)
def test_what_transformers_writes_is_recognised(
    original: bool, layout: KeyLayout, processor: Qwen2AudioProcessor, tmp_path: Path
) -> None:
    model = narrow.build(processor)
    model.save_pretrained(tmp_path, save_original_format=original)
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        written = set(file.keys())
    shapes = Architecture.read(tmp_path).shapes()
    assert {hub_name(name) for name in written} == shapes.keys()
    assert {layout_of(name) for name in written} - {KeyLayout.HUB} == {layout}
    assert {memory_name(name) for name in shapes} == {name for name, _ in model.named_parameters()}
