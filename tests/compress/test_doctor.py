"""A sound checkpoint has nothing; every check has something to find, and what is said of engines is true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import Qwen2AudioProcessor

from compress import doctor
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import CheckpointError
from tests.compress import narrow
from tests.compress.checks import test_formats, test_processor, test_structure
from tests.compress.patients import Kind, Spoil, admit


@pytest.mark.parametrize("kind", ["plain", "nf4", "lora"])
def test_a_sound_checkpoint_has_nothing_and_is_served_by_all(
    kind: Kind, processor: Qwen2AudioProcessor, tmp_path: Path
) -> None:
    path = admit(kind, processor, tmp_path)
    report = doctor.examine(path)
    assert not [finding for found in report.checks.values() for finding in found]
    assert report.healthy
    assert [engine.name for engine in report.engines] == ["transformers", "vllm"]
    assert all(engine.serves for engine in report.engines)
    narrow.scores(Checkpoint.open(path).load_model("cpu", torch.bfloat16))  # and it is true


def test_the_shipped_model_is_sound() -> None:
    assert doctor.examine(POCKET).healthy


def test_what_engines_need_beside_themselves(processor: Qwen2AudioProcessor, tmp_path: Path) -> None:
    paths = [admit(kind, processor, tmp_path) for kind in get_args(Kind)]
    needs = {path.name: [engine.needs for engine in doctor.examine(path).engines] for path in paths}
    assert needs == {
        "plain": [(), ()],
        "nf4": [("bitsandbytes",), ("vllm-bnb-plugin",)],
        "lora": [("bitsandbytes", "peft"), ("vllm-bnb-plugin",)],
        "w4a16": [(), ()],
        "fp8": [(), ()],
        "w4a16-e8": [(), ()],
        "fp8-e8": [(), ()],
    }


def test_the_report_is_json(processor: Qwen2AudioProcessor, tmp_path: Path) -> None:
    lora = admit("lora", processor, tmp_path)
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
        "where": "",
    }


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint directory at .*nowhere"):
        doctor.examine(tmp_path / "nowhere")


def test_an_empty_directory_is_examined_without_an_accident(tmp_path: Path) -> None:
    report = doctor.examine(tmp_path)
    assert report.checks["files"]
    assert report.checks["weights"]
    assert not any(engine.serves for engine in report.engines)


def test_every_check_has_an_ailment() -> None:
    ailments = test_structure.AILMENTS + test_formats.AILMENTS + test_processor.AILMENTS
    assert {one.check for one in ailments} == set(doctor.examine(POCKET).checks)


@pytest.mark.parametrize(
    ("spoil", "loads"),
    [
        (test_structure.doubled, True),
        (test_structure.as_in_memory, True),
        (test_formats.tower_in_nf4, True),
        (test_structure.cut_short, False),
    ],
)
def test_what_is_said_of_transformers_is_true(
    spoil: Spoil, loads: bool, processor: Qwen2AudioProcessor, tmp_path: Path
) -> None:
    plain = admit("plain", processor, tmp_path)
    wanted = narrow.scores(Checkpoint.open(plain).load_model("cpu", torch.bfloat16))
    spoil(plain)
    assert doctor.examine(plain).engine("transformers").serves == loads
    if loads:
        found = narrow.scores(Checkpoint.open(plain).load_model("cpu", torch.bfloat16))
        assert (found - wanted).abs().max() < wanted.abs().max()  # not another model: 4 bits round, names do nothing
    else:
        with pytest.raises(Exception, match=r"(?i)safetensors|metadata|incomplete"):
            Checkpoint.open(plain).load_model("cpu", torch.bfloat16)
