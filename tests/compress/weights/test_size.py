"""Sizes against the paper's tables and against what transformers, bitsandbytes and peft really write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import BitsAndBytesConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress.checkpoint import POCKET
from compress.errors import CheckpointError
from compress.pocket import architecture
from compress.weights.architectures import QWEN2_AUDIO_7B, Architecture, is_linear
from compress.weights.entries import Entry, read_header
from compress.weights.schemes import Embeddings
from compress.weights.size import (
    GROUPS,
    LORA_RANK,
    Layout,
    group_of,
    measure,
    plan_size,
    planned_entries,
    summarise,
)

# --- the paper's figures ----------------------------------------------------------------------------------------

BILLION = 1e9


@pytest.mark.parametrize(
    ("tables", "n_tower_layers", "n_layers", "layout", "params_b", "storage_gb"),
    [
        ("1 and 2, baseline", 32, 32, Layout.BF16, 8.40, 16.79),
        ("1, QLoRA", 32, 32, Layout.PAPER, 4.95, 9.64),
        ("2, pruned; 3, decoder; 6, 8 layers", 32, 24, Layout.BF16, 6.78, 13.55),
        ("2, QLoRA", 32, 24, Layout.PAPER, 4.12, 8.65),
        ("3, encoder and decoder", 24, 24, Layout.BF16, 6.62, 13.24),
        ("6, 10 layers", 32, 22, Layout.BF16, 6.37, 12.74),
        ("6, 12 layers", 32, 20, Layout.BF16, 5.97, 11.93),
        ("6, 16 layers", 32, 16, Layout.BF16, 5.16, 10.32),
    ],
)
def test_plans_give_the_params_and_storage_of_the_paper(
    tables: str, n_tower_layers: int, n_layers: int, layout: Layout, params_b: float, storage_gb: float
) -> None:
    size = plan_size(QWEN2_AUDIO_7B.keep(n_tower_layers, n_layers), layout)
    assert size.stored_elements / BILLION == pytest.approx(params_b, abs=0.01), tables
    assert size.tensor_bytes / BILLION == pytest.approx(storage_gb, abs=0.01), tables


@pytest.mark.parametrize(("n_layers", "storage_gb"), [(32, 6.656), (24, 5.741)])
def test_compact_halves_what_the_paper_keeps_in_fp32(n_layers: int, storage_gb: float) -> None:
    smaller = QWEN2_AUDIO_7B.keep(32, n_layers)
    compact, paper = plan_size(smaller, Layout.COMPACT), plan_size(smaller, Layout.PAPER)
    assert compact.tensor_bytes / BILLION == pytest.approx(storage_gb, abs=0.001)
    assert compact.stored_elements == paper.stored_elements


@pytest.mark.parametrize(("layout", "storage_gb"), [(Layout.W4A16, 7.181), (Layout.INT8, 10.321), (Layout.FP8, 10.321)])
def test_what_vllm_has_kernels_for_keeps_tower_and_vocabulary(layout: Layout, storage_gb: float) -> None:
    size = plan_size(QWEN2_AUDIO_7B, layout)
    assert size.tensor_bytes / BILLION == pytest.approx(storage_gb, abs=0.001)
    assert size.logical_parameters == plan_size(QWEN2_AUDIO_7B, Layout.BF16).logical_parameters
    decoder = size.groups["decoder"]
    assert 8 * decoder.n_bytes / decoder.logical == pytest.approx(4.126 if layout == Layout.W4A16 else 8.004, abs=0.001)


@pytest.mark.parametrize(
    ("n_layers", "n_linears", "adapter_elements", "parameters"),
    [(32, 417, 207_437_824, 8_397_094_912), (24, 361, 167_460_864, 6_777_929_728)],
)
def test_the_adapter_reaches_every_linear_module(
    n_layers: int, n_linears: int, adapter_elements: int, parameters: int
) -> None:
    smaller = QWEN2_AUDIO_7B.keep(32, n_layers)
    assert sum(is_linear(name, shape) for name, shape in smaller.shapes().items()) == n_linears
    size = plan_size(smaller, Layout.PAPER)
    assert size.adapter_elements == adapter_elements
    assert size.logical_parameters == parameters


def test_the_papers_trainable_share() -> None:
    size = plan_size(QWEN2_AUDIO_7B, Layout.PAPER)
    share = size.adapter_elements / (size.logical_parameters + size.adapter_elements)
    assert f"{share:.2%}" == "2.41%"


def test_groups_of_the_true_model() -> None:
    size = plan_size(QWEN2_AUDIO_7B, Layout.BF16)
    assert {name: share.logical for name, share in size.groups.items()} == {
        "audio tower": 636_968_960,
        "projector": 5_246_976,
        "embeddings": 639_107_072,
        "decoder": 6_476_664_832,
        "lm_head": 639_107_072,
    }
    assert size.bits_per_weight == 16
    assert size.file_bytes is None
    assert size.directory_bytes is None


def test_groups_and_dtypes_add_up_to_the_same() -> None:
    for layout in Layout:
        size = plan_size(QWEN2_AUDIO_7B, layout)
        for what in ("logical", "stored", "n_bytes"):
            by_group = sum(getattr(share, what) for share in size.groups.values())
            assert by_group == sum(getattr(share, what) for share in size.dtypes.values())
        assert set(size.groups) <= set(GROUPS)


# --- against transformers, bitsandbytes and peft ----------------------------------------------------------------


def test_the_pocket_checkpoint_is_as_big_as_planned() -> None:
    pocket = Architecture.read(POCKET)
    planned, measured = plan_size(pocket, Layout.BF16), measure(POCKET)
    assert by_name(planned_entries(pocket, Layout.BF16)) == by_name(read_header(POCKET / "model.safetensors"))
    assert planned.tensor_bytes == measured.tensor_bytes
    assert planned.groups == measured.groups
    assert planned.dtypes == measured.dtypes
    assert measured.file_bytes is not None
    assert 0 < measured.file_bytes - measured.tensor_bytes < 100_000  # the header
    assert measured.directory_bytes == sum(file.stat().st_size for file in POCKET.iterdir())


def by_name(entries: list[Entry]) -> dict[str, Entry]:
    assert len({entry.name for entry in entries}) == len(entries)
    return {entry.name: entry for entry in entries}


def quantised(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, directory: Path
) -> Qwen2AudioForConditionalGeneration:
    """The model in nf4 with double quantisation, read from a checkpoint in hub layout as the stages read theirs."""
    architecture.save(model, processor, directory)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    loaded: Qwen2AudioForConditionalGeneration = Qwen2AudioForConditionalGeneration.from_pretrained(
        directory, dtype=torch.bfloat16, quantization_config=settings
    )
    return loaded


def assert_as_planned(saved: Path, layout: Layout, embeddings: Embeddings = "bf16") -> None:
    """Every tensor is as planned, up to the digits of the one number in the state that the weights decide."""
    planned = by_name(planned_entries(Architecture.read(saved), layout, embeddings))
    written = by_name([entry for file in saved.rglob("*.safetensors") for entry in read_header(file)])
    if not (saved / "adapter").exists():
        planned = {name: entry for name, entry in planned.items() if group_of(name) != "adapter"}
    states = {name for name in planned if "quant_state" in name}
    assert {name: entry for name, entry in planned.items() if name not in states} == {
        name: entry for name, entry in written.items() if name not in states
    }
    for name in states:
        assert written[name].dtype == "U8"
        assert abs(written[name].n_bytes - planned[name].n_bytes) <= 16, name
    measured, plan = measure(saved), summarise("plan", planned.values())
    assert measured.logical_parameters == plan.logical_parameters
    assert abs(measured.tensor_bytes - plan.tensor_bytes) <= 16 * len(states)


def test_bitsandbytes_writes_what_is_planned(
    miniature: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, tmp_path: Path
) -> None:
    quantised(miniature, processor, tmp_path / "bf16").save_pretrained(tmp_path / "nf4")
    assert_as_planned(tmp_path / "nf4", Layout.COMPACT)
    whole, small = measure(tmp_path / "bf16"), measure(tmp_path / "nf4")
    assert small.logical_parameters == whole.logical_parameters == sum(w.numel() for w in miniature.parameters())


def test_the_papers_recipe_writes_what_is_planned(
    miniature: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")
    model = peft.prepare_model_for_kbit_training(quantised(miniature, processor, tmp_path / "bf16"))
    model.save_pretrained(tmp_path / "qlora")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=LORA_RANK, target_modules="all-linear"))
    adapted.save_pretrained(tmp_path / "qlora" / "adapter")
    assert_as_planned(tmp_path / "qlora", Layout.PAPER)
    alone = measure(tmp_path / "qlora" / "adapter")
    assert alone.adapter_elements == measure(tmp_path / "qlora").adapter_elements > 0
    assert (alone.logical_parameters, alone.stored_elements, alone.bits_per_weight) == (0, 0, None)


# --- directories ------------------------------------------------------------------------------------------------


def write(file: Path, **tensors: np.ndarray[Any, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name.replace("__", "."): tensor for name, tensor in tensors.items()}, file)


def test_shards_and_an_adapters_folder_are_added_up_and_training_states_are_not(tmp_path: Path) -> None:
    write(tmp_path / "model-00001-of-00002.safetensors", audio_tower__conv1__weight=np.zeros((2, 3), np.float16))
    write(tmp_path / "model-00002-of-00002.safetensors", language_model__lm_head__weight=np.zeros(5, np.float32))
    write(tmp_path / "adapter" / "adapter_model.safetensors", base_model__x__lora_A__weight=np.zeros(4, np.float32))
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    write(tmp_path / "state" / "model.safetensors", language_model__lm_head__weight=np.zeros(5, np.float32))
    size = measure(tmp_path)
    assert {name: share.n_bytes for name, share in size.groups.items()} == {
        "audio tower": 12,
        "lm_head": 20,
        "adapter": 16,
    }
    assert (size.logical_parameters, size.stored_elements, size.adapter_elements) == (11, 11, 4)
    assert {name: share.stored for name, share in size.dtypes.items()} == {"F32": 9, "F16": 6}
    assert size.bits_per_weight == 8 * 48 / 11
    assert size.directory_bytes == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert size.file_bytes is not None
    assert 48 < size.file_bytes < size.directory_bytes


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("audio_tower.embed_positions.weight", "audio tower"),
        ("model.audio_tower.layers.0.fc1.weight.absmax", "audio tower"),
        ("model.multi_modal_projector.linear.weight", "projector"),
        ("language_model.model.embed_tokens.weight", "embeddings"),
        ("model.language_model.layers.3.mlp.up_proj.weight", "decoder"),
        ("language_model.model.norm.weight", "decoder"),
        ("lm_head.weight", "lm_head"),
        ("base_model.model.lm_head.weight", "adapter"),
        ("audio_tower.layers.0.fc1.lora_B.default.weight", "adapter"),
        ("alignment_heads", "other"),
    ],
)
def test_names_on_disk_and_in_memory_find_their_group(name: str, group: str) -> None:
    assert group_of(name) == group


def no_directory(path: Path) -> None:
    shutil.rmtree(path)


def no_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def cut_short(path: Path) -> None:
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[:-1])


def not_safetensors(path: Path) -> None:
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")


def twice(path: Path) -> None:
    shutil.copy(path / "model.safetensors", path / "model-00001-of-00001.safetensors")


def packed(path: Path) -> None:
    write(path / "model.safetensors", lm_head__weight=np.zeros((2, 2), np.int32))


def bytes_without_a_state(path: Path) -> None:
    write(path / "model.safetensors", lm_head__weight=np.zeros((2, 2), np.uint8))


MISTAKES = [
    (no_directory, "no checkpoint directory at"),
    (no_weights, r"holds no \*.safetensors weights"),
    (cut_short, "is no readable safetensors file"),
    (not_safetensors, "is no readable safetensors file"),
    (twice, "lm_head.weight is in both .* one of them is stale"),
    (packed, "lm_head.weight is stored as I32; what can be counted is BF16, F16, F32, F64, bitsandbytes nf4"),
    (bytes_without_a_state, "lm_head.weight is stored as U8; what can be counted"),
]


@pytest.mark.parametrize(("spoil", "complaint"), MISTAKES)
def test_a_directory_that_cannot_be_measured_says_why(
    spoil: Callable[[Path], None], complaint: str, tmp_path: Path
) -> None:
    write(tmp_path / "model.safetensors", lm_head__weight=np.zeros((2, 2), np.float32))
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=complaint):
        measure(tmp_path)
