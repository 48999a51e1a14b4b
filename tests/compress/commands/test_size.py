"""`python -m compress size`: what it prints, and what a user can do wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from compress.checkpoint import POCKET
from compress.weights.size import measure
from tests.compress.commands.conftest import Run


def test_measured_directories_as_json(run: Run, tmp_path: Path) -> None:
    save_file({"lm_head.weight": np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    status, out, _ = run("size", POCKET, tmp_path, "--json")
    assert status == 0
    assert json.loads(out) == [measure(POCKET).to_json(), measure(tmp_path).to_json()]
    assert json.loads(out)[1]["groups"] == {"lm_head": {"logical": 4, "stored": 4, "n_bytes": 16}}


def test_plans_as_json(run: Run) -> None:
    status, out, _ = run("size", "--plan", "--layers", "32,24", "--layout", "bf16", "--layout", "paper", "--json")
    assert status == 0
    bf16, paper = json.loads(out)
    assert (bf16["stored_elements"], bf16["storage_gb"]) == (6_777_929_728, 13.555859456)
    assert paper["name"] == "Qwen2-Audio-7B, 32/24 layers, paper"
    assert paper["directory_bytes"] is None


def test_int8_embeddings_are_planned(run: Run) -> None:
    status, out, _ = run("size", "--plan", "--layout", "w4a16", "--embeddings", "int8", "--json")
    assert status == 0
    (size,) = json.loads(out)
    assert size["name"] == "Qwen2-Audio-7B, 32/32 layers, w4a16, int8 embeddings"
    a_row = 4096 + 2  # a byte a weight, and its scale
    assert size["groups"]["embeddings"]["n_bytes"] == size["groups"]["lm_head"]["n_bytes"] == 156_032 * a_row + 16


def test_the_table_names_groups_dtypes_and_the_papers_words(run: Run) -> None:
    status, out, _ = run("size", "--plan", "--layout", "paper")
    assert status == 0
    for words in (
        "audio tower",
        "207,437,824",
        "F32",
        "9.19 bits",
        '"Params"',
        "9.645 GB with adapter (the paper's \"",
    ):
        assert words in out


def test_another_configuration_is_planned(run: Run) -> None:
    status, out, _ = run("size", "--plan", "--config", POCKET, "--layers", "4,8")
    assert status == 0
    assert "4/8 layers, bf16" in out
    assert run("size", "--plan", "--config", POCKET / "config.json", "--layers", "4,8")[1] == out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "or plan one with --plan"),
        ([POCKET, "--plan"], "or plan one with --plan"),
        ([POCKET, "--layers", "4,4"], "need --plan"),
        ([POCKET, "--layout", "paper"], "need --plan"),
        ([POCKET, "--embeddings", "int8"], "need --plan"),
        (["--plan", "--embeddings", "int8"], "embeddings int8 are for layouts w4a16, int8, fp8, not for bf16"),
        (["--plan", "--layout", "zip"], "'zip' is not one of 'bf16', 'paper', 'compact'"),
        (["--plan", "--layers", "24"], "two numbers, audio tower and decoder, as in 32,24: found '24'"),
        (["--plan", "--layers", "32,40"], "1 to 32 in the decoder"),
        (["--plan", "--config", "nowhere"], "no configuration at nowhere"),
        (["nowhere"], "no checkpoint directory at nowhere"),
        ([Path(__file__).parent], "holds no *.safetensors weights"),
    ],
)
def test_a_mistake_is_explained_without_a_traceback(run: Run, arguments: list[object], complaint: str) -> None:
    status, out, err = run("size", *arguments)
    assert status == 2
    assert out == ""
    assert complaint in err
    assert "Traceback" not in err


def test_measuring_needs_no_torch() -> None:
    measuring = "import sys; from compress.weights.size import measure; measure(sys.argv[1])"
    command = f"{measuring}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", command, str(POCKET)], check=True)
