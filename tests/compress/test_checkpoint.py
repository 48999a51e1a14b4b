"""What makes a directory a checkpoint, and what makes it none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from compress.checkpoint import LINEAGE_FILE, POCKET, Checkpoint
from compress.errors import CheckpointError


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
