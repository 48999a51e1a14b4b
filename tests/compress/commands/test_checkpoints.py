"""`export` and `doctor`: what they print, and what a user can do wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Final

import pytest
import torch
from transformers import Qwen2AudioProcessor

from compress.checkpoint import POCKET, Checkpoint
from tests.compress import narrow
from tests.compress.commands.conftest import Run

FLIGHT: Final = Path(__file__).parents[3] / "serve" / "examples" / "phone_gate_change.flac"


@pytest.fixture
def source(processor: Qwen2AudioProcessor, tmp_path: Path) -> Checkpoint:
    return narrow.checkpoint(processor, tmp_path / "narrow")


# --- export -----------------------------------------------------------------------------------------------------


def test_an_export_says_where_how_big_and_what_it_translates(run: Run, source: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "shipped"
    status, _, err = run("export", source.path, "--out", out, "--layout", "bf16", "--clip", FLIGHT)
    assert status == 0, err
    made = Checkpoint.open(out)
    assert f"{out}: {made.n_bytes / 1e6:.1f} MB, " in err
    assert repr(made.lineage["trial"]) in err
    assert {tensor.dtype for tensor in narrow.tensors(out).values()} == {torch.bfloat16}


def test_a_dry_run_lists_what_would_be_uploaded(run: Run) -> None:
    status, _, err = run("export", "pocket", "--push", "someone/student", "--dry-run")
    assert status == 0, err
    listed = re.findall(r"^ *([\d,]+)  (\S+)$", err, re.MULTILINE)
    assert listed == [(f"{file.stat().st_size:,}", file.name) for file in sorted(POCKET.iterdir())]
    total = sum(file.stat().st_size for file in POCKET.iterdir())
    assert f"{total:,} bytes would be uploaded to someone/student" in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Missing argument 'CHECKPOINT'"),
        (["pocket"], "name a directory to write with --out, a repository with --push, or both"),
        (
            ["pocket", "--out", "OUT", "--layout", "zip"],
            "layouts: bf16, paper, compact, w4a16, int8, fp8",
        ),
        (["pocket", "--out", "OUT", "--clip", str(FLIGHT), "--layout", "w4a16"], "name it with --recipe"),
        (["pocket", "--out", "OUT", "--clip", str(FLIGHT), "--recipe", "setup1-de"], "calibrated: w4a16, int8"),
        (["pocket", "--out", "OUT", "--clip", str(FLIGHT), "--calibration", "9"], "calibration is for layouts w4a16"),
        (["pocket", "--out", "OUT", "--embeddings", "int4"], "no embeddings 'int4'; embeddings: bf16, int8"),
        (
            ["pocket", "--out", "OUT", "--clip", str(FLIGHT), "--embeddings", "int8"],
            "embeddings int8 are for layouts w4a16, int8, fp8",
        ),
        (["pocket", "--out", "OUT", "--dry-run"], "--dry-run belongs to --push"),
        (["pocket", "--out", "OUT"], "--out needs a --clip of English speech"),
        (["pocket", "--out", "OUT", "--clip", "nowhere.wav"], "nowhere.wav' does not exist"),
        (["pocket", "--out", "OUT", "--clip", str(Path(__file__))], "not an audio file we can read"),
        (["pocket", "--out", "OUT", "--clip", str(FLIGHT), "--to", "fr"], "'fr'; supported: de, zh"),
        (["pocket", "--out", "OUT", "--clip", str(FLIGHT), "--merge"], "pocket has no adapter to merge"),
        (["pocket", "--push", "student", "--dry-run"], "a repository is called OWNER/NAME: found 'student'"),
        (["nowhere", "--out", "OUT", "--clip", str(FLIGHT)], "no checkpoint directory at nowhere"),
    ],
)
def test_a_mistake_is_explained_without_a_traceback(
    run: Run, arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    status, out, err = run("export", *(str(tmp_path / "out") if word == "OUT" else word for word in arguments))
    assert status == 2
    assert out == ""
    assert complaint.lower() in " ".join(err.lower().split())
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


# --- doctor -----------------------------------------------------------------------------------------------------


def test_a_healthy_checkpoint_can_be_served(run: Run) -> None:
    status, out, _ = run("doctor", POCKET)
    assert status == 0
    assert out.count("can serve it") == 2
    assert "cannot" not in out
    status, out, _ = run("doctor", POCKET, "--json")
    report = json.loads(out)
    assert (status, report["healthy"], report["path"]) == (0, True, str(POCKET))


def test_a_checkpoint_that_nobody_can_serve_fails(run: Run, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(POCKET, tmp_path / "broken"))
    (broken / "model.safetensors").unlink()
    status, out, err = run("doctor", broken)
    assert status == 1
    assert out.count("cannot serve it") == 2
    assert "there are no *.safetensors weights" in out
    assert err == ""
    status, out, _ = run("doctor", broken, "--json")
    assert (status, json.loads(out)["healthy"]) == (1, False)


def test_a_patient_who_is_not_there(run: Run) -> None:
    status, out, err = run("doctor", "nowhere")
    assert (status, out) == (2, "")
    assert "no checkpoint directory at nowhere" in err
