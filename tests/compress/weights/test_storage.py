"""Other forms of a checkpoint, against transformers, bitsandbytes and peft, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2AudioProcessor

from compress.checkpoint import ADAPTER_FOLDER, Checkpoint
from compress.errors import CheckpointError
from compress.weights import quantise, storage
from compress.weights.adapter import Adapter
from compress.weights.architectures import Architecture, is_linear
from compress.weights.key_layout import KeyLayout, layout_of
from compress.weights.storage import Form
from tests.compress import narrow

peft = pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")

PAPER = Form("all", torch.float32)
COMPACT = Form("all", torch.bfloat16)
PLAIN = Form(None, torch.bfloat16)


@pytest.fixture
def source(processor: Qwen2AudioProcessor, tmp_path: Path) -> Checkpoint:
    return narrow.checkpoint(processor, tmp_path / "bf16")


def rewritten(source: Checkpoint, directory: Path, form: Form) -> Checkpoint:
    storage.rewrite(source, directory, form)
    return Checkpoint.open(directory)


# --- against the libraries --------------------------------------------------------------------------------------


def test_the_papers_form_is_what_the_papers_recipe_stores_bit_for_bit(source: Checkpoint, tmp_path: Path) -> None:
    prepared = peft.prepare_model_for_kbit_training(narrow.quantised(source))
    prepared.save_pretrained(tmp_path / "theirs")
    ours = rewritten(source, tmp_path / "ours", PAPER)
    narrow.assert_same_bits(narrow.tensors(ours.path), narrow.tensors(tmp_path / "theirs"))
    theirs = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert json.loads((ours.path / "config.json").read_text())["dtype"] == theirs["dtype"] == "float32"


def test_the_compact_form_is_what_transformers_stores(source: Checkpoint, tmp_path: Path) -> None:
    narrow.quantised(source).save_pretrained(tmp_path / "theirs")
    ours = rewritten(source, tmp_path / "ours", COMPACT)
    narrow.assert_same_bits(narrow.tensors(ours.path), narrow.tensors(tmp_path / "theirs"))
    settings, wanted = (
        json.loads((path / "config.json").read_text())["quantization_config"]
        for path in (ours.path, tmp_path / "theirs")
    )
    assert settings | {"llm_int8_skip_modules": None} == wanted  # written out what is left to the default there


def test_the_plain_form_of_a_plain_checkpoint_is_the_same(source: Checkpoint, tmp_path: Path) -> None:
    plain = rewritten(source, tmp_path / "plain", PLAIN)
    narrow.assert_same_bits(narrow.tensors(plain.path), narrow.tensors(source.path))
    assert torch.equal(
        narrow.scores(plain.load_model("cpu", torch.float32)), narrow.scores(source.load_model("cpu", torch.float32))
    )


# --- what is quantised ------------------------------------------------------------------------------------------


def four_bit(checkpoint: Checkpoint) -> set[str]:
    model = checkpoint.load_model("cpu", torch.bfloat16)
    return {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}


def test_all_linear_modules_load_in_4_bits(source: Checkpoint, tmp_path: Path) -> None:
    names = four_bit(rewritten(source, tmp_path / "nf4", COMPACT))
    assert len(names) == narrow.N_LINEARS
    assert "lm_head" not in names


def test_only_the_decoder_loads_in_4_bits(source: Checkpoint, tmp_path: Path) -> None:
    checkpoint = rewritten(source, tmp_path / "nf4", Form("decoder", torch.bfloat16))
    names = four_bit(checkpoint)
    assert len(names) == 7 * narrow.N_LAYERS
    assert all(name.startswith("model.language_model.layers.") for name in names)
    held, before = narrow.tensors(checkpoint.path), narrow.tensors(source.path)
    kept = {name: tensor for name, tensor in before.items() if not name.startswith("language_model.model.layers.")}
    narrow.assert_same_bits({name: held[name] for name in kept}, kept)


def test_a_model_in_4_bits_computes_with_the_weights_that_its_parts_stand_for(
    source: Checkpoint, tmp_path: Path
) -> None:
    """On every machine: bitsandbytes' own kernels for some CPUs round scales to bf16."""
    nf4 = rewritten(source, tmp_path / "nf4", COMPACT)
    plain = rewritten(nf4, tmp_path / "plain", PLAIN)
    held = narrow.tensors(plain.path)
    for name, tensor in narrow.tensors(source.path).items():
        if is_linear(name, tuple(tensor.shape)):
            tensor = quantise.dequantise(quantise.quantise(tensor, double=True))
        assert torch.equal(held[name], tensor), name
    found, wanted = (narrow.scores(each.load_model("cpu", torch.bfloat16)) for each in (nf4, plain))
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()
    exact = narrow.scores(source.load_model("cpu", torch.float32))
    assert (wanted - exact).abs().max() > 2 * (found - wanted).abs().max()


def test_running_a_model_leaves_its_weights_as_they_were(source: Checkpoint, tmp_path: Path) -> None:
    model = rewritten(source, tmp_path / "nf4", COMPACT).load_model("cpu", torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    narrow.scores(model)
    narrow.assert_same_bits(model.state_dict(), before)


def test_4_bit_weights_are_copied_and_the_rest_is_cast_without_loss(source: Checkpoint, tmp_path: Path) -> None:
    paper = rewritten(source, tmp_path / "paper", Form("decoder", torch.float32, double=False))
    compact = rewritten(paper, tmp_path / "compact", COMPACT)
    again = rewritten(compact, tmp_path / "again", PAPER)
    narrow.assert_same_bits(narrow.tensors(again.path), narrow.tensors(paper.path))
    assert compact.quantisation == paper.quantisation
    assert not any(tensor.dtype == torch.float32 for tensor in narrow.tensors(compact.path).values() if tensor.ndim > 1)
    assert compact.n_bytes < paper.n_bytes


# --- adapters ---------------------------------------------------------------------------------------------------


@pytest.fixture
def adapted(source: Checkpoint, tmp_path: Path) -> Checkpoint:
    return narrow.adapted(source, tmp_path / "adapted", narrow.stage(), PAPER)


@pytest.mark.parametrize("form", [PAPER, COMPACT, PLAIN])
def test_an_adapter_that_is_not_merged_is_cast_with_the_rest(form: Form, adapted: Checkpoint, tmp_path: Path) -> None:
    written = rewritten(adapted, tmp_path / "out", form)
    found, before = narrow.tensors(written.path), narrow.tensors(adapted.path)
    factors = {name: tensor.to(form.rest) for name, tensor in before.items() if name.startswith(f"{ADAPTER_FOLDER}/")}
    assert len(factors) == 2 * narrow.N_LINEARS
    narrow.assert_same_bits({name: found[name] for name in factors}, factors)


def test_merging_into_plain_weights(adapted: Checkpoint, tmp_path: Path) -> None:
    merged = rewritten(adapted, tmp_path / "merged", Form(None, torch.bfloat16, merge=True))
    assert merged.adapter is None
    assert merged.quantisation is None
    beside = narrow.scores(adapted.load_model("cpu", torch.float32))
    inside = narrow.scores(merged.load_model("cpu", torch.float32))
    without = rewritten(adapted, tmp_path / "without", PLAIN).path
    shutil.rmtree(without / ADAPTER_FOLDER)
    difference = (narrow.scores(Checkpoint.open(without).load_model("cpu", torch.float32)) - beside).abs().max()
    assert (inside - beside).abs().max() < 0.1 * difference


def test_merging_into_4_bit_weights(adapted: Checkpoint, tmp_path: Path) -> None:
    merged = rewritten(adapted, tmp_path / "merged", Form("all", torch.bfloat16, merge=True))
    assert merged.adapter is None
    assert merged.quantisation == adapted.quantisation
    assert adapted.adapter is not None
    opened = Adapter.open(adapted.adapter, Architecture.read(adapted.path).shapes())
    plain = narrow.tensors(rewritten(adapted, tmp_path / "plain", PLAIN).path)
    held = narrow.tensors(merged.path)
    for name in opened.factors:
        update = opened.update(name)
        assert update is not None
        wanted = quantise.quantise((plain[name].float() + update).to(torch.bfloat16), double=True)
        found = {suffix: held[f"{name}{suffix}"] for suffix in wanted}
        narrow.assert_same_bits(found, wanted)


# --- names, files, mistakes -------------------------------------------------------------------------------------


def test_any_key_layout_becomes_the_hubs(processor: Qwen2AudioProcessor, source: Checkpoint, tmp_path: Path) -> None:
    for original in (True, False):
        directory = tmp_path / f"{original}"
        shutil.copytree(source.path, directory)
        model = narrow.build(processor)
        model.to(torch.bfloat16)  # type: ignore[arg-type]  # transformers hides the method's own hints
        model.save_pretrained(directory, save_original_format=original)
        assert {layout_of(name) for name in narrow.tensors(directory)} != {KeyLayout.HUB}
        written = rewritten(Checkpoint.open(directory), tmp_path / f"{original}-out", PLAIN)
        narrow.assert_same_bits(narrow.tensors(written.path), narrow.tensors(source.path))


def test_tokenizer_and_processor_come_along_and_lineage_and_card_do_not(source: Checkpoint, tmp_path: Path) -> None:
    (source.path / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    (source.path / "README.md").write_text("# of another model")
    written = rewritten(source, tmp_path / "out", COMPACT)
    names = {file.name for file in source.path.iterdir()} - {"README.md", "lineage.json"}
    assert {file.name for file in written.path.iterdir()} == names
    for name in names - {"config.json", "model.safetensors"}:
        assert (written.path / name).read_bytes() == (source.path / name).read_bytes()
    assert written.load_processor().tokenizer.vocab_size > 5000
    assert written.load_model("cpu", torch.bfloat16).generation_config.eos_token_id == [2, 0]


def edit(source: Checkpoint, change: Callable[[dict[str, Tensor]], None]) -> None:
    file = source.path / "model.safetensors"
    held = load_file(file)
    change(held)
    file.unlink()
    save_file(held, file)


def lose(held: dict[str, Tensor]) -> None:
    del held["audio_tower.conv1.bias"]


def gain(held: dict[str, Tensor]) -> None:
    held["language_model.model.layers.9.mlp.up_proj.weight"] = torch.zeros(2)


def reshape(held: dict[str, Tensor]) -> None:
    held["language_model.model.norm.weight"] = torch.zeros(3)


def several(held: dict[str, Tensor]) -> None:
    for name in [name for name in held if name.startswith("audio_tower.conv")]:
        del held[name]


def other_format(held: dict[str, Tensor]) -> None:
    held["multi_modal_projector.linear.weight.quant_state.bitsandbytes__fp4"] = torch.zeros(3, dtype=torch.uint8)


def twice(held: dict[str, Tensor]) -> None:
    held["lm_head.weight"] = held["language_model.lm_head.weight"].clone()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lose, r"the weights do not fit config\.json: audio_tower\.conv1\.bias is missing$"),
        (gain, r"layers\.9\.mlp\.up_proj\.weight belongs to nothing"),
        (reshape, r"norm\.weight has shape \(3,\), not \(64,\)"),
        (several, r"conv1\.bias is missing; .* and 1 more$"),
        (other_format, r"multi_modal_projector\.linear\.weight is quantised, and not in nf4"),
        (twice, r"holds language_model\.lm_head\.weight twice"),
    ],
)
def test_weights_that_are_not_the_configurations_are_refused(
    change: Callable[[dict[str, Tensor]], None], complaint: str, source: Checkpoint, tmp_path: Path
) -> None:
    edit(source, change)
    with pytest.raises(CheckpointError, match=complaint):
        storage.rewrite(source, tmp_path / "out", COMPACT)


def test_a_damaged_file_is_refused(source: Checkpoint, tmp_path: Path) -> None:
    file = source.path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is no readable safetensors file"):
        storage.rewrite(source, tmp_path / "out", COMPACT)


def test_only_checkpoints_are_replaced(source: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (source.path, tmp_path / "nowhere", tmp_path / "empty"):
        assert not any(storage.begin(out).iterdir())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"")
    with pytest.raises(CheckpointError, match="holds files and is no checkpoint"):
        storage.begin(tmp_path / "photos")


def test_a_directory_takes_its_place_whole(source: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(source.path, out)
    (out / "old").write_text("")
    (storage.begin(out) / "left by a killed run").write_text("")
    temporary = storage.begin(out)
    assert not any(temporary.iterdir())
    assert (out / "old").exists()
    shutil.copytree(source.path, temporary, dirs_exist_ok=True)
    storage.write_lineage(temporary, {"name": "new", "made_from": storage.digest("this", {"b": 1, "a": 2})})
    assert storage.finish(temporary, out).name == "new"
    assert not (out / "old").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"bf16", "out"}
    assert len({file.stat().st_mode for file in out.iterdir()}) == 1, "who may read one file may read all"
    assert storage.is_made(out, storage.digest("this", {"a": 2, "b": 1}))
    assert not storage.is_made(out, storage.digest("that", {"a": 2, "b": 1}))
    assert not storage.is_made(tmp_path / "nowhere", "")


def test_a_text_is_written_whole_and_once(tmp_path: Path) -> None:
    file = tmp_path / "lineage.json"
    storage.write_whole(file, "süß\n")
    before = file.stat().st_mtime_ns
    storage.write_whole(file, "süß\n")
    assert file.stat().st_mtime_ns == before
    storage.write_whole(file, "sauer\n")
    assert file.read_text(encoding="utf-8") == "sauer\n"
    assert [one.name for one in tmp_path.iterdir()] == ["lineage.json"]


def test_a_file_with_other_names_is_not_changed_under_them(tmp_path: Path) -> None:
    file, other = tmp_path / "lineage.json", tmp_path / "other.json"
    storage.write_whole(file, "before")
    other.hardlink_to(file)
    storage.write_whole(file, "after")
    assert other.read_text() == "before"
