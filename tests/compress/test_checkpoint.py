"""What makes a directory a checkpoint, and what makes it none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2AudioProcessor

from compress.checkpoint import ADAPTER_CONFIG, ADAPTER_FOLDER, ADAPTER_WEIGHTS, LINEAGE_FILE, POCKET, Checkpoint
from compress.errors import CheckpointError
from compress.weights.storage import Form
from tests.compress import narrow


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of the pocket checkpoint with few weights; nothing in `open` reads them."""
    copy = tmp_path / "model"
    shutil.copytree(POCKET, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    (copy / "model.safetensors").write_bytes(b"\0" * 1000)
    return copy


def test_a_checkpoint_knows_its_name_lineage_and_size(directory: Path) -> None:
    (directory / LINEAGE_FILE).write_text('{"name": "small", "parent": "big", "layers": [0, 2]}')
    (directory / "more.safetensors").write_bytes(b"\0" * 234)
    checkpoint = Checkpoint.open(directory)
    assert checkpoint.name == "small"
    assert checkpoint.lineage["layers"] == [0, 2]
    assert checkpoint.n_bytes == 1234
    assert checkpoint.path == directory.resolve()


def test_without_lineage_the_directory_gives_the_name(directory: Path) -> None:
    (directory / LINEAGE_FILE).unlink()
    checkpoint = Checkpoint.open(str(directory))
    assert checkpoint.name == "model"
    assert checkpoint.lineage == {}


def test_a_relative_path_and_a_home_path_are_resolved(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory.parent)
    monkeypatch.setenv("HOME", str(directory.parent))
    assert Checkpoint.open("model").path == Checkpoint.open("~/model").path == directory.resolve()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint directory at .*nowhere"):
        Checkpoint.open(tmp_path / "nowhere")


def test_a_file_is_no_checkpoint(directory: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        Checkpoint.open(directory / "config.json")


def test_every_missing_piece_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json, tokenizer\.json, processor_config\.json missing"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "processor_config.json"])
def test_a_missing_piece_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(CheckpointError, match=f"is no checkpoint: {name} missing"):
        Checkpoint.open(directory)


def test_the_hubs_older_processor_file_will_do(directory: Path) -> None:
    (directory / "processor_config.json").rename(directory / "preprocessor_config.json")
    assert Checkpoint.open(directory).n_bytes == 1000


def test_missing_weights_are_named(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors weights"):
        Checkpoint.open(directory)


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt", "state.pkl", "modeling_qwen2_audio.py"],
)
def test_files_that_can_run_code_are_refused_even_beside_good_weights(directory: Path, name: str) -> None:
    (directory / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"holds {name}: only safetensors"):
        Checkpoint.open(directory)


@pytest.mark.parametrize("name", [ADAPTER_CONFIG, ADAPTER_WEIGHTS])
def test_half_an_adapter_is_none(directory: Path, name: str) -> None:
    folder = directory / ADAPTER_FOLDER
    folder.mkdir()
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        (folder / file).write_bytes(b"\0" * 30)
    assert Checkpoint.open(directory).adapter == folder.resolve()
    assert Checkpoint.open(directory).n_bytes == 1030
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"is no checkpoint: adapter/{name} missing"):
        Checkpoint.open(directory)


def test_an_adapter_that_can_run_code_is_refused(directory: Path) -> None:
    (directory / ADAPTER_FOLDER).mkdir()
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "adapter_model.bin"):
        (directory / ADAPTER_FOLDER / file).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds adapter/adapter_model\.bin: only safetensors"):
        Checkpoint.open(directory)


def test_code_named_by_the_configuration_is_not_run(tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(POCKET, copy)
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "somebody/repository--modeling.Model", "AutoConfig": "evil.Config"}
    (copy / "config.json").write_text(json.dumps(config))
    model = Checkpoint.open(copy).load_model("cpu", torch.bfloat16)
    assert type(model).__module__.startswith("transformers.")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[1, 2]", "must hold a JSON object, found list"),
        (b'"pocket"', "must hold a JSON object, found str"),
    ],
)
def test_a_bad_lineage_is_refused(directory: Path, content: bytes, complaint: str) -> None:
    (directory / LINEAGE_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{LINEAGE_FILE} .*{complaint}|{LINEAGE_FILE} {complaint}"):
        Checkpoint.open(directory)


def test_the_shipped_checkpoint_loads_ready_to_translate() -> None:
    checkpoint = Checkpoint.open(POCKET)
    assert checkpoint.name == "pocket"
    model = checkpoint.load_model("cpu", torch.bfloat16)
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert checkpoint.load_processor().tokenizer.padding_side == "left"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in bf16")
def test_a_model_that_only_translates_is_frozen_and_in_fp32_on_a_cpu() -> None:
    weights = list(Checkpoint.open(POCKET).load_for_inference().parameters())
    assert {(weight.dtype, weight.requires_grad) for weight in weights} == {(torch.float32, False)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_only_translates_may_be_of_another_dtype(dtype: torch.dtype) -> None:
    weights = list(Checkpoint.open(POCKET).load_for_inference(dtype).parameters())
    assert {(weight.dtype, weight.requires_grad) for weight in weights} == {(dtype, False)}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"dtype": "float32"}, torch.float32),
        ({"torch_dtype": "float16"}, torch.float16),
        ({"dtype": "float32", "torch_dtype": "float16"}, torch.float32),
        ({}, torch.bfloat16),
    ],
)
def test_the_dtype_of_stored_weights_is_what_the_configuration_says(
    settings: dict[str, str], wanted: torch.dtype, directory: Path
) -> None:
    (directory / "config.json").write_text(json.dumps(settings))
    assert Checkpoint.open(directory).stored_dtype == wanted


# --- 4-bit weights and adapters ---------------------------------------------------------------------------------


@pytest.fixture
def plain(processor: Qwen2AudioProcessor, tmp_path: Path) -> Checkpoint:
    return narrow.checkpoint(processor, tmp_path / "narrow")


@pytest.fixture
def adapted(plain: Checkpoint, tmp_path: Path) -> Checkpoint:
    """4-bit weights, everything else and an adapter in fp32."""
    pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")
    return narrow.adapted(plain, tmp_path / "adapted", narrow.stage(), Form("all", torch.float32))


def test_plain_weights_have_neither(plain: Checkpoint) -> None:
    assert plain.adapter is None
    assert plain.quantisation is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_quantised_has_the_dtype_that_was_asked_for(dtype: torch.dtype, adapted: Checkpoint) -> None:
    assert adapted.quantisation is not None
    assert adapted.quantisation["load_in_4bit"]
    model = adapted.load_model("cpu", dtype)
    held = {name: weight for name, weight in model.named_parameters() if ".lora_" not in name}
    linear = {name for name, weight in held.items() if weight.dtype == torch.uint8}
    assert len(linear) == narrow.N_LINEARS
    assert {weight.dtype for name, weight in held.items() if name not in linear} == {dtype}
    assert narrow.scores(model).isfinite().all()


def test_4_bit_weights_are_multiplied_in_the_dtype_that_was_asked_for(adapted: Checkpoint) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="this environment is behind requirements/test.txt")
    model = adapted.load_model("cpu", torch.float32)
    packed = [one for one in model.modules() if isinstance(one, bitsandbytes.nn.Linear4bit)]
    assert len(packed) == narrow.N_LINEARS
    module = packed[0]
    states = torch.randn(5, module.in_features)
    state = copy(module.weight.quant_state)
    state.dtype = torch.float32
    plain = bitsandbytes.functional.dequantize_4bit(module.weight.data, state)
    with torch.no_grad():
        torch.testing.assert_close(module(states), torch.nn.functional.linear(states, plain, module.bias))


def test_an_adapter_is_loaded_frozen_and_changes_what_the_model_says(adapted: Checkpoint) -> None:
    model = adapted.load_model("cpu", torch.float32)
    assert not model.training
    assert adapted.adapter is not None
    stored = load_file(adapted.adapter / ADAPTER_WEIGHTS)
    factors = {name: weight for name, weight in model.named_parameters() if ".lora_" in name}
    assert len(factors) == len(stored) == 2 * narrow.N_LINEARS
    for name, weight in factors.items():
        assert not weight.requires_grad
        assert torch.equal(weight, stored[f"base_model.model.{name.replace('.default', '')}"])
    with_it = narrow.scores(model)
    model.disable_adapters()
    assert (narrow.scores(model) - with_it).abs().max() > 0.1 * with_it.abs().max()


def test_peft_computes_the_same(plain: Checkpoint) -> None:
    peft = pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")
    model = plain.load_model("cpu", torch.float32)
    lora = narrow.adapted(plain, plain.path.parent / "lora", narrow.stage(), Form(None, torch.bfloat16))
    theirs = peft.PeftModel.from_pretrained(model, str(lora.adapter)).get_base_model()
    torch.testing.assert_close(narrow.scores(theirs), narrow.scores(lora.load_model("cpu", torch.float32)))


def other_rank(folder: Path) -> None:
    content = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps(content | {"r": 4}))


def other_modules(folder: Path) -> None:
    content = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps(content | {"target_modules": ["q_proj"]}))


def no_modules(folder: Path) -> None:
    content = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps(content | {"target_modules": ["attention"]}))


def missing_factor(folder: Path) -> None:
    held = load_file(folder / ADAPTER_WEIGHTS)
    (folder / ADAPTER_WEIGHTS).unlink()
    save_file(dict(list(held.items())[1:]), folder / ADAPTER_WEIGHTS)


def cut_short(folder: Path) -> None:
    (folder / ADAPTER_WEIGHTS).write_bytes((folder / ADAPTER_WEIGHTS).read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (other_rank, f"is for other weights: {2 * narrow.N_LINEARS} tensors do not fit"),
        (other_modules, "is for other weights: .* such as model"),
        (no_modules, "cannot be used: .*attention"),
        (missing_factor, "is for other weights: 1 tensors do not fit"),
        (cut_short, "cannot be used"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    spoil: Callable[[Path], None], complaint: str, adapted: Checkpoint
) -> None:
    assert adapted.adapter is not None
    spoil(adapted.adapter)
    with pytest.raises(CheckpointError, match=f"the adapter in .* {complaint}"):
        adapted.load_model("cpu", torch.float32)


def test_a_missing_package_is_named(plain: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"narrow cannot be loaded without no_such_package: pip install"):
        plain._check_installed(["torch", "no_such_package"])


# --- lineage ----------------------------------------------------------------------------------------------------


def test_scores_and_names_do_not_change_what_a_checkpoint_is(directory: Path) -> None:
    step = {"stage": "finetune", "name": "finetune", "epochs": 3}
    made = {"name": "a", "parent": "p", "history": [step | {"source": "p"}], "made_from": "123"}

    def identity(**changes: Any) -> str:
        (directory / "lineage.json").write_text(json.dumps(made | changes))
        return Checkpoint.open(directory).identity

    first = identity()
    assert identity(scores=[{"metric": "BLEU"}]) == first
    assert identity(name="b", parent="q", history=[step | {"source": "q"}]) == first
    assert identity(made_from="124") != first
    assert identity(history=[step | {"epochs": 4}]) != first
    assert identity(loss=0.5) != first
    # where nothing says what it was made from, its name has to do
    (directory / "lineage.json").write_text(json.dumps({"name": "a"}))
    named = Checkpoint.open(directory).identity
    (directory / "lineage.json").write_text(json.dumps({"name": "b"}))
    assert Checkpoint.open(directory).identity != named


def test_a_descendant_inherits_layers_and_history_and_no_scores(directory: Path) -> None:
    (directory / LINEAGE_FILE).write_text(
        '{"name": "big", "layers": [0, 2], "language": "de", "scores": [1], "seed": 3}'
    )
    source = Checkpoint.open(directory)
    child = source.descend("small", {"stage": "qlora", "rank": 8, "source": None}, format="nf4")
    assert (child["name"], child["parent"], child["layers"], child["format"]) == ("small", "big", [0, 2], "nf4")
    assert child["history"] == [{"stage": "qlora", "rank": 8, "source": "big"}]
    assert child["versions"]["torch"] == torch.__version__
    assert not {"scores", "seed"} & child.keys()
    (directory / LINEAGE_FILE).write_text(json.dumps(child))
    grandchild = Checkpoint.open(directory).descend("last", {"stage": "export"}, layers=[0])
    assert grandchild["history"] == [*child["history"], {"stage": "export", "source": "small"}]
    assert grandchild["layers"] == [0]
