"""Adapters against peft: where they go, what they hold, what merging adds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2AudioProcessor

from compress.checkpoint import ADAPTER_CONFIG, ADAPTER_FOLDER, ADAPTER_WEIGHTS, Checkpoint
from compress.errors import CheckpointError
from compress.recipe_stages import Optimisation, Qlora
from compress.weights import adapter
from compress.weights.adapter import Adapter
from compress.weights.architectures import QWEN2_AUDIO_7B, Architecture
from compress.weights.key_layout import hub_name
from compress.weights.storage import Form
from tests.compress import narrow

peft = pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")

NF4 = Form("all", torch.float32)


@pytest.fixture
def source(processor: Qwen2AudioProcessor, tmp_path: Path) -> Checkpoint:
    return narrow.checkpoint(processor, tmp_path / "bf16")


# --- how much is trained ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_layers", "modules", "parameters"), [(32, 417, 207_437_824), (24, 361, 167_460_864)])
def test_the_adapter_of_the_true_model(n_layers: int, modules: int, parameters: int) -> None:
    counted = adapter.trainable(QWEN2_AUDIO_7B.keep(32, n_layers), Qlora(stage="qlora"))
    assert (counted.modules, counted.parameters) == (modules, parameters)


def test_the_papers_trainable_share() -> None:
    counted = adapter.trainable(QWEN2_AUDIO_7B, Qlora(stage="qlora"))
    assert counted.model_parameters == 8_397_094_912
    assert f"{counted.share:.2%}" == "2.41%"


def test_tower_and_projector_are_a_quarter_of_it() -> None:
    everything = adapter.trainable(QWEN2_AUDIO_7B, Qlora(stage="qlora")).parameters
    decoder = adapter.trainable(QWEN2_AUDIO_7B, Qlora(stage="qlora", modules="decoder"))
    assert decoder.modules == 224
    assert f"{1 - decoder.parameters / everything:.1%}" == "22.9%"


@pytest.mark.parametrize("settings", [{}, {"modules": "decoder"}, {"rank": 3}])
def test_what_is_counted_is_what_is_trained(settings: dict[str, Any], source: Checkpoint) -> None:
    stage = narrow.stage(**settings)
    model = source.load_model("cpu", torch.bfloat16)
    adapter.attach(model, stage)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    counted = adapter.trainable(Architecture.read(source.path), stage)
    assert sum(weight.numel() for weight in trained.values()) == counted.parameters
    assert len(trained) == 2 * counted.modules
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert counted.model_parameters == sum(w.numel() for n, w in model.named_parameters() if ".lora_" not in n)


# --- where it goes ----------------------------------------------------------------------------------------------


def adapted_names(model: Any) -> set[str]:
    return {name for name, _ in model.named_parameters() if ".lora_" in name}


def test_all_modules_are_pefts_all_linear(source: Checkpoint) -> None:
    ours, theirs = (source.load_model("cpu", torch.bfloat16) for _ in range(2))
    adapter.attach(ours, narrow.stage())
    peft.inject_adapter_in_model(peft.LoraConfig(r=narrow.RANK, target_modules="all-linear"), theirs)
    assert adapted_names(ours) == adapted_names(theirs)
    assert len(adapted_names(ours)) == 2 * narrow.N_LINEARS


def test_the_decoder_alone(source: Checkpoint) -> None:
    model = source.load_model("cpu", torch.bfloat16)
    adapter.attach(model, narrow.stage(modules="decoder"))
    assert len(adapted_names(model)) == 2 * 7 * narrow.N_LAYERS
    assert all(name.startswith("model.language_model.layers.") for name in adapted_names(model))


def test_the_seed_decides_how_it_begins(source: Checkpoint) -> None:
    def begin(seed: int) -> Tensor:
        model = source.load_model("cpu", torch.bfloat16)
        torch.rand(seed + 3)  # whatever was drawn before
        adapter.attach(model, narrow.stage(optimisation=Optimisation(seed=seed)))
        return model.get_parameter("model.language_model.layers.0.mlp.up_proj.lora_A.default.weight").detach()

    assert torch.equal(begin(0), begin(0))
    assert not torch.equal(begin(0), begin(1))


def test_an_adapter_that_has_learnt_nothing_changes_nothing(source: Checkpoint) -> None:
    model = source.load_model("cpu", torch.float32)
    before = narrow.scores(model)
    adapter.attach(model, narrow.stage())
    model.eval()
    assert torch.equal(narrow.scores(model), before)


# --- on disk ----------------------------------------------------------------------------------------------------


def test_what_is_stored_is_what_peft_stores(source: Checkpoint, tmp_path: Path) -> None:
    stored = narrow.adapted(source, tmp_path / "nf4", narrow.stage(), NF4)
    model = peft.PeftModel.from_pretrained(narrow.quantised(source), str(stored.adapter))
    model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    ours, theirs = (
        load_file(folder / ADAPTER_WEIGHTS) for folder in (tmp_path / "nf4" / "adapter", tmp_path / "theirs")
    )
    narrow.assert_same_bits(ours, theirs)
    assert {factor.dtype for factor in ours.values()} == {torch.float32}


def test_the_settings_are_the_same_every_time_and_name_no_path(source: Checkpoint, tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        folder = narrow.adapted(source, tmp_path / name, narrow.stage(), Form(None, torch.bfloat16)).adapter
        assert folder is not None
        texts.append((folder / ADAPTER_CONFIG).read_text())
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0]
    settings = json.loads(texts[0])
    assert (settings["r"], settings["lora_alpha"], settings["use_rslora"]) == (narrow.RANK, 128, True)
    assert settings["inference_mode"]


def test_a_copy_is_cast(source: Checkpoint, tmp_path: Path) -> None:
    stored = narrow.adapted(source, tmp_path / "nf4", narrow.stage(), NF4)
    assert stored.adapter is not None
    adapter.copy(stored.adapter, tmp_path / "copy", torch.bfloat16)
    wanted = {name: factor.to(torch.bfloat16) for name, factor in load_file(stored.adapter / ADAPTER_WEIGHTS).items()}
    narrow.assert_same_bits(load_file(tmp_path / "copy" / ADAPTER_WEIGHTS), wanted)
    assert (tmp_path / "copy" / ADAPTER_CONFIG).read_text() == (stored.adapter / ADAPTER_CONFIG).read_text()


# --- merging ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank_stabilised", [True, False])
def test_merging_adds_what_peft_computes(rank_stabilised: bool, source: Checkpoint, tmp_path: Path) -> None:
    stage = narrow.stage(rank_stabilised=rank_stabilised, alpha=24)
    stored = narrow.adapted(source, tmp_path / "nf4", stage, NF4)
    assert stored.adapter is not None
    opened = Adapter.open(stored.adapter, Architecture.read(stored.path).shapes())
    assert opened.scaling == 24 / (math.sqrt(narrow.RANK) if rank_stabilised else narrow.RANK)
    assert len(opened.factors) == narrow.N_LINEARS
    model = stored.load_model("cpu", torch.float32)
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            update = opened.update(hub_name(f"{name}.weight"))
            assert update is not None
            torch.testing.assert_close(update, module.get_delta_weight("default"), atol=1e-6, rtol=1e-5)
            assert update.abs().max() > 0.001
    assert opened.update("language_model.model.norm.weight") is None


def change(folder: Path, **settings: Any) -> None:
    content = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps(content | settings))


def drop(folder: Path, factor: str) -> None:
    held = load_file(folder / ADAPTER_WEIGHTS)
    save_file({name: tensor for name, tensor in held.items() if factor not in name}, folder / ADAPTER_WEIGHTS)


MISTAKES: list[tuple[Callable[[Path], None], str]] = [
    (lambda folder: change(folder, use_dora=True), "uses use_dora: that is not merged"),
    (lambda folder: change(folder, rank_pattern={"q_proj": 4}, bias="all"), "uses rank_pattern, bias"),
    (lambda folder: change(folder, modules_to_save=["lm_head"]), "uses modules_to_save"),
    (lambda folder: drop(folder, "layers.1.mlp.up_proj.lora_B"), r"lacks .*layers\.1\.mlp\.up_proj\.lora_B\.weight"),
]


@pytest.mark.parametrize(("spoil", "complaint"), MISTAKES)
def test_an_adapter_that_cannot_be_merged_says_why(
    spoil: Callable[[Path], None], complaint: str, source: Checkpoint, tmp_path: Path
) -> None:
    stored = narrow.adapted(source, tmp_path / "lora", narrow.stage(), Form(None, torch.bfloat16))
    spoil(stored.path / ADAPTER_FOLDER)
    with pytest.raises(CheckpointError, match=complaint):
        Adapter.open(stored.path / ADAPTER_FOLDER, Architecture.read(stored.path).shapes())


def test_an_adapter_of_another_model_is_refused(source: Checkpoint, tmp_path: Path) -> None:
    stored = narrow.adapted(source, tmp_path / "lora", narrow.stage(), Form(None, torch.bfloat16))
    with pytest.raises(CheckpointError, match="is for another model: nothing fits its audio_tower"):
        Adapter.open(stored.path / ADAPTER_FOLDER, QWEN2_AUDIO_7B.shapes())
