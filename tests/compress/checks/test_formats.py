"""Quantisation and adapters that say one thing and hold another are found; what is meant is what libraries do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2AudioProcessor
from transformers.quantizers.quantizers_utils import should_convert_module

from compress import doctor
from compress.checkpoint import Checkpoint
from compress.checks import formats
from compress.weights import compressed_tensors, schemes, storage
from compress.weights.architectures import QWEN2_AUDIO_7B, is_linear
from compress.weights.key_layout import memory_name
from compress.weights.storage import Form
from tests.compress import narrow, rounded
from tests.compress.patients import (
    ADAPTER,
    BOTH,
    FACTORS,
    TRANSFORMERS,
    VLLM,
    Ailment,
    Kind,
    admit,
    configure,
    lose,
    overwrite,
    replace,
    rewritten,
)


def forgotten_settings(path: Path) -> None:
    with rewritten(path) as content:
        del content["quantization_config"]


OUTSIDE = ["model.audio_tower", "model.multi_modal_projector"]
# names on disk, which skip nothing
hub_names_in_the_skip_list = configure(
    "quantization_config", llm_int8_skip_modules=["audio_tower", "multi_modal_projector", "lm_head"]
)
# a list of one's own replaces the default, and lm_head with it
replaced_skip_list = configure("quantization_config", llm_int8_skip_modules=OUTSIDE)
skips_what_is_quantised = configure("quantization_config", llm_int8_skip_modules=[*OUTSIDE, "lm_head", "down_proj"])
other_method = configure(quantization_config={"quant_method": "awq"})
UP = "language_model.model.layers.1.mlp.up_proj.weight"
ignores_names_on_disk = configure(
    "quantization_config",
    ignore=["re:.*audio_tower.*", "re:.*multi_modal_projector.*", "re:.*lm_head", "language_model.lm_head"],
)
# as the tool saves it
ignores_nothing_outside = configure("quantization_config", ignore=["re:.*lm_head"])
ignores_what_is_quantised = configure("quantization_config", ignore=[*schemes.IGNORED, "re:.*down_proj"])
asymmetric = configure(
    "quantization_config",
    config_groups={"group_0": {"targets": ["Linear"], "weights": {"type": "int", "num_bits": 4, "symmetric": False}}},
)
lost_scale = lose(f"{UP}_scale")
lost_shape = lose(f"{UP}_shape")


def scales_of_a_smaller_weight(path: Path) -> None:
    file = path / "model.safetensors"
    held = load_file(file)
    held[f"{UP}_scale"] = held[f"{UP}_scale"][:-1].clone()
    save_file(held, file)


def packed_for_a_smaller_weight(path: Path) -> None:
    file = path / "model.safetensors"
    held = load_file(file)
    held[f"{UP}_packed"] = held[f"{UP}_packed"][:, :-1].clone()
    save_file(held, file)


def forgotten_group(path: Path) -> None:
    with rewritten(path) as content:
        del content["quantization_config"]["config_groups"]["group_1"]


def plain_embeddings(path: Path) -> None:
    shutil.copy(path.parent / "plain" / "model.safetensors", path)


def lm_head_stays_plain(path: Path) -> None:
    file, name = path / "model.safetensors", "language_model.lm_head.weight"
    held = {stored: tensor for stored, tensor in load_file(file).items() if not stored.startswith(name)}
    save_file(held | {name: narrow.tensors(path.parent / "plain")[name]}, file)


def unpacked_embeddings(path: Path) -> None:
    file, name = path / "model.safetensors", schemes.EMBEDDINGS[0]
    held = load_file(file)
    shape = held.pop(name + schemes.SHAPE).tolist()
    held[name] = compressed_tensors.unpack(held.pop(name + schemes.PACKED), tuple(shape)).clone()
    save_file(held, file)


lost_embeddings_scale = lose(f"{schemes.EMBEDDINGS[0]}_scale")
ignores_lm_head = configure("quantization_config", ignore=list(schemes.IGNORED))


def tower_in_fp8(path: Path) -> None:
    file, name = path / "model.safetensors", "audio_tower.layers.0.fc1.weight"
    held = load_file(file)
    held |= rounded.parts(name, held[name], "fp8", 64)
    save_file(held, file)


def tower_in_nf4(path: Path) -> None:
    storage.rewrite(Checkpoint.open(path), path.parent / "all", Form("all", torch.bfloat16))
    for name in ("config.json", "model.safetensors"):
        shutil.copy(path.parent / "all" / name, path)


lost_factor = lose("layers.1.mlp.up_proj.lora_B.weight", FACTORS)
adapter_of_a_deeper_model = replace("layers.2.", "layers.9.", FACTORS)
other_kind = configure(file=ADAPTER, peft_type="IA3")
other_rank = configure(file=ADAPTER, r=16)
narrower_target = configure(file=ADAPTER, target_modules=["q_proj"])
no_target = configure(file=ADAPTER, target_modules=["attention"])


def adapter_in_the_tower(path: Path) -> None:
    source = Checkpoint.open(path.parent / "plain")
    everywhere = narrow.adapted(source, path.parent / "everywhere", narrow.stage(), Form("decoder", torch.bfloat16))
    shutil.rmtree(path / "adapter")
    shutil.copytree(everywhere.path / "adapter", path / "adapter")


damaged_adapter = overwrite(FACTORS, b"version https://git-lfs.github.com/spec/v1")


AILMENTS = [
    Ailment("nf4", forgotten_settings, "quantisation", "21 weights are in nf4, and config.json has no", BOTH),
    Ailment(
        "nf4", hub_names_in_the_skip_list, "quantisation", "7 weights are not in nf4.*audio_tower, multi_modal", BOTH
    ),
    Ailment(
        "nf4", replaced_skip_list, "quantisation", r"1 weights are not in nf4, such as language_model\.lm_head", BOTH
    ),
    Ailment("nf4", skips_what_is_quantised, "quantisation", "3 weights are in nf4.*down_proj.*leaves out", BOTH),
    Ailment("plain", other_method, "quantisation", "quantization_config is for awq", BOTH),
    Ailment("w4a16", ignores_names_on_disk, "quantisation", r"ignore has language_model\.lm_head", TRANSFORMERS),
    Ailment("fp8", ignores_nothing_outside, "quantisation", "7 weights are not quantised, such as audio_tower", BOTH),
    Ailment("fp8", ignores_what_is_quantised, "quantisation", "3 weights are quantised.*down_proj.*leave out", BOTH),
    Ailment("w4a16", asymmetric, "quantisation", 'as {"type": "int".*read by vLLM only', TRANSFORMERS),
    Ailment("w4a16", lost_scale, "quantisation", "up_proj.weight_scale is missing", BOTH),
    Ailment("fp8", lost_scale, "quantisation", "1 weights are not quantised, such as .*up_proj", BOTH),
    Ailment("w4a16", lost_shape, "quantisation", "up_proj.weight_shape is missing", BOTH),
    Ailment("w4a16", scales_of_a_smaller_weight, "quantisation", "cannot have scales of", BOTH),
    Ailment("w4a16", packed_for_a_smaller_weight, "quantisation", "cannot hold 128 × 64 integers", BOTH),
    Ailment("fp8", tower_in_fp8, "quantisation", "1 weights are quantised, such as audio_tower", BOTH),
    Ailment("fp8-e8", forgotten_group, "quantisation", r"1 weights are quantised, such as .*embed_tokens.*out$", BOTH),
    Ailment("fp8-e8", plain_embeddings, "quantisation", "23 weights are not quantised, such as .*lm_head", BOTH),
    Ailment("w4a16-e8", lm_head_stays_plain, "quantisation", "1 weights are not quantised, such as .*lm_head", BOTH),
    Ailment("w4a16-e8", ignores_lm_head, "quantisation", "1 weights are quantised, such as .*lm_head.*leave out", BOTH),
    Ailment("w4a16-e8", lost_embeddings_scale, "quantisation", "embed_tokens.weight_scale is missing", BOTH),
    Ailment("w4a16-e8", unpacked_embeddings, "quantisation", "embed_tokens.weight is not packed: vLLM takes", VLLM),
    Ailment("plain", tower_in_nf4, "quantisation", "7 weights of tower and projector are quantised", VLLM),
    Ailment("lora", lost_factor, "adapter", r"layers\.1\.mlp\.up_proj\.lora_B\.weight is missing$", BOTH),
    Ailment("lora", adapter_of_a_deeper_model, "adapter", r"does not fit: .*layers\.2\..* is missing", BOTH),
    Ailment("lora", other_kind, "adapter", "of type IA3: only LORA", BOTH),
    Ailment("lora", other_rank, "adapter", r"has shape \(8, 64\), not \(16, 64\)", BOTH),
    Ailment("lora", narrower_target, "adapter", "belongs to none of its target modules", BOTH),
    Ailment("lora", no_target, "adapter", r"no module is called \['attention'\]", BOTH),
    Ailment("lora", adapter_in_the_tower, "adapter", "reaches tower and projector, such as audio_tower", VLLM),
    Ailment("lora", damaged_adapter, "adapter", "is no readable safetensors file", BOTH),
]


@pytest.mark.parametrize("ailment", AILMENTS, ids=str)
def test_an_ailment_is_found_by_its_check(ailment: Ailment, processor: Qwen2AudioProcessor, tmp_path: Path) -> None:
    ailment.assert_found(admit(ailment.kind, processor, tmp_path))


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("w4a16", doctor.INTEGER_KERNELS),
        ("fp8", ""),
        ("w4a16-e8", doctor.INT8_WEIGHT_KERNELS),
        ("fp8-e8", doctor.INT8_WEIGHT_KERNELS),
    ],
)
def test_rounded_checkpoints_are_sound_and_integers_need_their_kernels(
    kind: Kind, where: str, processor: Qwen2AudioProcessor, tmp_path: Path
) -> None:
    report = doctor.examine(admit(kind, processor, tmp_path))
    assert report.healthy, report.checks
    assert report.engine("transformers").where == ""
    assert report.engine("vllm").where == where
    assert not any(engine.needs for engine in report.engines)


# --- against the libraries --------------------------------------------------------------------------------------

LINEARS = [
    memory_name(name).removesuffix(".weight")
    for name, shape in QWEN2_AUDIO_7B.shapes().items()
    if is_linear(name, shape) or name == "language_model.lm_head.weight"
]


@pytest.mark.parametrize(
    "skipped",
    [
        ["lm_head"],
        ["audio_tower", "lm_head"],
        ["model.audio_tower", "model.multi_modal_projector", "lm_head"],
        ["model.language_model.layers.3.mlp"],
        ["q_proj"],
        ["model.language_model.layers.1"],
        [".*layers.2[0-9].*"],
    ],
)
def test_skip_lists_are_read_as_transformers_does(skipped: list[str]) -> None:
    for module in LINEARS:
        assert formats.is_skipped(module, skipped) != should_convert_module(module, skipped), module


@pytest.mark.parametrize(
    "target",
    [
        {"target_modules": ["q_proj", "linear"]},
        {"target_modules": ["mlp.up_proj"], "exclude_modules": ["layers.3.mlp.up_proj"]},
        {"target_modules": r"model\.language_model\..*_proj"},
        {"target_modules": ["q_proj", "fc1"], "exclude_modules": r"model\.(audio_tower|multi_modal_projector)\..*"},
        {"target_modules": ["proj"]},
    ],
)
def test_targets_are_read_as_peft_does(target: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")
    from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists

    config = peft.LoraConfig(**target)
    for module in LINEARS:
        theirs = check_target_module_exists(config, module)
        aimed_at = bool(theirs) and not isinstance(theirs, _ExcludedModule)
        assert formats.is_target(module, target) == aimed_at, module
