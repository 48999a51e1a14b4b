"""A sound checkpoint has nothing; every ailment is found by its check, and keeps the right engines from serving."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2AudioProcessor
from transformers.quantizers.quantizers_utils import should_convert_module

from compress import doctor, storage
from compress.architectures import QWEN2_AUDIO_7B, is_linear
from compress.checkpoint import POCKET, Checkpoint
from compress.checks import formats
from compress.checks.patient import ENGINES, EngineName
from compress.errors import CheckpointError
from compress.key_layout import memory_name
from compress.storage import Form
from tests.compress import narrow

BOTH: tuple[EngineName, ...] = ENGINES
VLLM: tuple[EngineName, ...] = ("vllm",)
TRANSFORMERS: tuple[EngineName, ...] = ("transformers",)


@pytest.fixture
def plain(processor: Qwen2AudioProcessor, tmp_path: Path) -> Path:
    return narrow.checkpoint(processor, tmp_path / "plain").path


@pytest.fixture
def nf4(plain: Path, tmp_path: Path) -> Path:
    """The decoder in 4 bits, which vLLM can serve."""
    storage.rewrite(Checkpoint.open(plain), tmp_path / "nf4", Form("decoder", torch.bfloat16))
    return tmp_path / "nf4"


@pytest.fixture
def lora(plain: Path, tmp_path: Path) -> Path:
    """The decoder in 4 bits and adapted."""
    pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")
    source, form = Checkpoint.open(plain), Form("decoder", torch.bfloat16)
    return narrow.adapted(source, tmp_path / "lora", narrow.stage(modules="decoder"), form).path


# --- healthy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "nf4", "lora"])
def test_a_sound_checkpoint_has_nothing_and_is_served_by_all(name: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(name)
    report = doctor.examine(path)
    assert not [finding for found in report.checks.values() for finding in found]
    assert report.healthy
    assert [engine.name for engine in report.engines] == ["transformers", "vllm"]
    assert all(engine.serves for engine in report.engines)
    narrow.scores(Checkpoint.open(path).load_model("cpu", torch.bfloat16))  # and it is true


def test_the_shipped_model_is_sound() -> None:
    assert doctor.examine(POCKET).healthy


def test_what_engines_need_beside_themselves(plain: Path, nf4: Path, lora: Path) -> None:
    needs = {path.name: [engine.needs for engine in doctor.examine(path).engines] for path in (plain, nf4, lora)}
    assert needs == {
        "plain": [(), ()],
        "nf4": [("bitsandbytes",), ("vllm-bnb-plugin",)],
        "lora": [("bitsandbytes", "peft"), ("vllm-bnb-plugin",)],
    }


def test_the_report_is_json(lora: Path) -> None:
    (lora / "tokenizer.json").unlink()
    report = json.loads(json.dumps(doctor.examine(lora).to_json()))
    assert report["healthy"] is False
    assert report["checks"]["files"] == [{"message": "tokenizer.json is missing", "blocks": ["transformers", "vllm"]}]
    assert report["checks"]["layers"] == []
    assert report["engines"][0] == {
        "name": "transformers",
        "serves": False,
        "reasons": ["tokenizer.json is missing"],
        "needs": ["bitsandbytes", "peft"],
    }


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint directory at .*nowhere"):
        doctor.examine(tmp_path / "nowhere")


def test_an_empty_directory_is_examined_without_an_accident(tmp_path: Path) -> None:
    report = doctor.examine(tmp_path)
    assert report.checks["files"]
    assert report.checks["weights"]
    assert not any(engine.serves for engine in report.engines)


# --- ailments ---------------------------------------------------------------------------------------------------


Spoil = Callable[[Path], None]

ADAPTER = "adapter/adapter_config.json"
FACTORS = "adapter/adapter_model.safetensors"


@contextmanager
def rewritten(path: Path, file: str = "config.json") -> Iterator[dict[str, Any]]:
    """The content of a file of JSON, to be changed."""
    content: dict[str, Any] = json.loads((path / file).read_text())
    yield content
    (path / file).write_text(json.dumps(content))


def configure(section: str | None = None, /, file: str = "config.json", **values: Any) -> Spoil:
    """Other settings in a file, or in one of its sections."""

    def spoil(path: Path) -> None:
        with rewritten(path, file) as content:
            (content if section is None else content[section]).update(values)

    return spoil


def rename(change: Callable[[str], str | None], file: str = "model.safetensors") -> Spoil:
    """Other names for the tensors of a file; None takes one out."""

    def spoil(path: Path) -> None:
        held = {change(name): tensor.clone() for name, tensor in load_file(path / file).items()}
        kept: dict[str, Tensor] = {name: tensor for name, tensor in held.items() if name is not None}
        save_file(kept, path / file)

    return spoil


def replace(old: str, new: str, file: str = "model.safetensors") -> Spoil:
    """Another word in the names of tensors."""
    return rename(lambda name: name.replace(old, new), file)


def lose(part: str, file: str = "model.safetensors") -> Spoil:
    """No tensors with that in their names."""
    return rename(lambda name: None if part in name else name, file)


def delete(file: str) -> Spoil:
    return lambda path: (path / file).unlink()


def overwrite(file: str, content: bytes = b"") -> Spoil:
    def spoil(path: Path) -> None:
        (path / file).write_bytes(content)

    return spoil


pickle = overwrite("pytorch_model.bin")
adapter_pickle = overwrite("adapter/adapter_model.bin")


def adapter_beside_the_weights(path: Path) -> None:
    shutil.copy(path / ADAPTER, path)


broken_config = overwrite("config.json", b"{")
other_model = configure(model_type="llama")


def cut_short(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def stale_shard(path: Path) -> None:
    shutil.copy(path / "model.safetensors", path / "model-00001-of-00001.safetensors")
    (path / "model.safetensors.index.json").write_text("{}")


def no_index(path: Path) -> None:
    held = list(load_file(path / "model.safetensors").items())
    (path / "model.safetensors").unlink()
    half = len(held) // 2
    for number, part in enumerate((held[:half], held[half:]), 1):
        save_file(dict(part), path / f"model-0000{number}-of-00002.safetensors")


doubled = replace("language_model.model.", "language_model.model.model.")
as_in_memory = rename(memory_name)

too_many_layers = configure("text_config", num_hidden_layers=2, layer_types=["full_attention"] * 2)
too_few_layers = lose(".layers.2.")
too_few_tower_layers = configure("audio_config", encoder_layers=2)
numbered_as_before_pruning = replace("model.layers.2.", "model.layers.7.")
uncut_layer_types = configure("text_config", layer_types=["full_attention"] * 4)

lost_tensor = lose("language_model.model.norm.weight")
strange_tensor = replace("conv1.bias", "conv1.shift")
other_vocabulary = configure("text_config", vocab_size=6000)


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
ignores_names_on_disk = configure(
    quantization_config={
        "quant_method": "compressed-tensors",
        "ignore": ["re:.*audio_tower.*", "language_model.lm_head"],
    }
)


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


def text_tokenizer(path: Path) -> None:
    with rewritten(path, "tokenizer.json") as content:
        content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] != "<|audio_bos|>"]


other_audio_token = configure(audio_token_index=4)


def grown_tokenizer(path: Path) -> None:
    with rewritten(path, "tokenizer.json") as content:
        content["added_tokens"].append({**content["added_tokens"][0], "id": 9000, "content": "<|new|>"})


broken_tokenizer = overwrite("tokenizer.json", b"[]")
other_mel_bands = configure("feature_extractor", "processor_config.json", feature_size=128)
silent_extractor = overwrite("processor_config.json", b"{}")


AILMENTS: list[tuple[str, Spoil, str, str, tuple[EngineName, ...]]] = [
    ("plain", delete("tokenizer.json"), "files", r"^tokenizer\.json is missing$", BOTH),
    ("plain", delete("processor_config.json"), "files", r"^processor_config\.json is missing$", BOTH),
    ("lora", delete("adapter/adapter_config.json"), "files", r"^adapter/adapter_config\.json is missing$", BOTH),
    ("lora", adapter_beside_the_weights, "files", "lies beside the weights", BOTH),
    ("plain", pickle, "safetensors only", r"^pytorch_model\.bin can run code", BOTH),
    ("lora", adapter_pickle, "safetensors only", r"^adapter/adapter_model\.bin can run code", BOTH),
    ("plain", broken_config, "configuration", "is not valid JSON", BOTH),
    ("plain", other_model, "configuration", "must configure model_type qwen2_audio, found llama", BOTH),
    ("plain", delete("model.safetensors"), "weights", r"there are no \*\.safetensors weights", BOTH),
    ("plain", cut_short, "weights", "is no readable safetensors file", BOTH),
    ("plain", stale_shard, "weights", r"is stored twice, the second time in model\.safetensors", BOTH),
    ("plain", no_index, "weights", r"2 files of weights, and no model\.safetensors\.index\.json", BOTH),
    ("plain", doubled, "key layout", r"language_model\.model\.model\..* are not called as on the hub", VLLM),
    ("plain", as_in_memory, "key layout", "are not called as on the hub", VLLM),
    ("nf4", doubled, "key layout", "are not called as on the hub", VLLM),
    ("plain", too_many_layers, "layers", r"hold 3 layers of language_model\.model, and .* is 2", BOTH),
    ("plain", too_few_layers, "layers", r"hold 2 layers of language_model\.model, and .* is 3", BOTH),
    ("plain", too_few_tower_layers, "layers", r"hold 1 layers of audio_tower, and audio_config\.encoder_layers", BOTH),
    ("plain", numbered_as_before_pruning, "layers", "not numbered 0 to 2: there is no 2", BOTH),
    ("nf4", numbered_as_before_pruning, "layers", "not numbered 0 to 2: there is no 2", BOTH),
    ("plain", uncut_layer_types, "layer types", "has 4 entries for 3 layers", BOTH),
    ("plain", lost_tensor, "tensors", r"^language_model\.model\.norm\.weight is missing$", BOTH),
    ("plain", strange_tensor, "tensors", r"conv1\.bias is missing, and 1 more like it", BOTH),
    ("plain", other_vocabulary, "tensors", r"embed_tokens\.weight has shape .* asks for \(6000, 64\)", BOTH),
    ("nf4", forgotten_settings, "quantisation", "21 weights are in nf4, and config.json has no", BOTH),
    ("nf4", hub_names_in_the_skip_list, "quantisation", "7 weights are not in nf4.*audio_tower, multi_modal", BOTH),
    ("nf4", replaced_skip_list, "quantisation", r"1 weights are not in nf4, such as language_model\.lm_head", BOTH),
    ("nf4", skips_what_is_quantised, "quantisation", "3 weights are in nf4.*down_proj.*leaves out", BOTH),
    ("plain", other_method, "quantisation", "quantization_config is for awq", BOTH),
    ("plain", ignores_names_on_disk, "quantisation", r"ignore has language_model\.lm_head", TRANSFORMERS),
    ("plain", tower_in_nf4, "quantisation", "7 weights of tower and projector are in nf4", VLLM),
    ("lora", lost_factor, "adapter", r"layers\.1\.mlp\.up_proj\.lora_B\.weight is missing$", BOTH),
    ("lora", adapter_of_a_deeper_model, "adapter", r"does not fit: .*layers\.2\..* is missing", BOTH),
    ("lora", other_kind, "adapter", "of type IA3: only LORA", BOTH),
    ("lora", other_rank, "adapter", r"has shape \(8, 64\), not \(16, 64\)", BOTH),
    ("lora", narrower_target, "adapter", "belongs to none of its target modules", BOTH),
    ("lora", no_target, "adapter", r"no module is called \['attention'\]", BOTH),
    ("lora", adapter_in_the_tower, "adapter", "reaches tower and projector, such as audio_tower", VLLM),
    ("lora", damaged_adapter, "adapter", "is no readable safetensors file", BOTH),
    ("plain", text_tokenizer, "tokenizer", r"has no token <\|audio_bos\|>", BOTH),
    ("plain", other_audio_token, "tokenizer", r"<\|AUDIO\|> is token 3 in tokenizer\.json and 4 in config", BOTH),
    ("plain", grown_tokenizer, "tokenizer", "goes up to token 9000, the embeddings up to 51", BOTH),
    ("plain", broken_tokenizer, "tokenizer", "must hold a JSON object", BOTH),
    ("plain", other_mel_bands, "feature extractor", "makes 128 mel bands, the audio tower hears 80", BOTH),
    ("plain", silent_extractor, "feature extractor", "feature_size is missing", BOTH),
]


@pytest.mark.parametrize(
    ("name", "spoil", "check", "message", "blocked"),
    AILMENTS,
    ids=[f"{check}-{number}" for number, (_, _, check, _, _) in enumerate(AILMENTS)],
)
def test_an_ailment_is_found_by_its_check(
    name: str,
    spoil: Spoil,
    check: str,
    message: str,
    blocked: tuple[EngineName, ...],
    request: pytest.FixtureRequest,
) -> None:
    path: Path = request.getfixturevalue(name)
    spoil(path)
    report = doctor.examine(path)
    assert report.checks[check], f"{check} found nothing"
    (first, *_) = report.checks[check]
    assert re.search(message, first.message), first.message
    assert first.blocks == blocked
    for engine in report.engines:
        assert engine.serves == (engine.name not in blocked)
        assert (first.message in engine.reasons) == (engine.name in blocked)


def test_every_check_has_an_ailment() -> None:
    assert {check for _, _, check, _, _ in AILMENTS} == set(doctor.examine(POCKET).checks)


def test_what_no_loader_minds_is_no_ailment(plain: Path) -> None:
    """Files of transformers 4: the extractor in a file of its own, the processor's without it, an odd note."""
    with rewritten(plain, "processor_config.json") as content:
        (plain / "preprocessor_config.json").write_text(json.dumps(content.pop("feature_extractor")))
    configure(torch_dtype="bfloat16")(plain)
    assert doctor.examine(plain).healthy


@pytest.mark.parametrize(
    ("spoil", "loads"), [(doubled, True), (as_in_memory, True), (tower_in_nf4, True), (cut_short, False)]
)
def test_what_is_said_of_transformers_is_true(spoil: Spoil, loads: bool, plain: Path) -> None:
    wanted = narrow.scores(Checkpoint.open(plain).load_model("cpu", torch.bfloat16))
    spoil(plain)
    assert doctor.examine(plain).engine("transformers").serves == loads
    if loads:
        found = narrow.scores(Checkpoint.open(plain).load_model("cpu", torch.bfloat16))
        assert (found - wanted).abs().max() < wanted.abs().max()  # not another model: 4 bits round, names do nothing
    else:
        with pytest.raises(Exception, match=r"(?i)safetensors|metadata|incomplete"):
            Checkpoint.open(plain).load_model("cpu", torch.bfloat16)


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
