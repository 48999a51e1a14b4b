"""The stage on a small model: what it leaves, what it trained, and what a killed run does to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress
from safetensors.torch import load_file
from transformers import Qwen2AudioProcessor

from compress import qlora
from compress.checkpoint import ADAPTER_WEIGHTS, Checkpoint
from compress.errors import CheckpointError, RecipeError
from compress.recipe import Data, Recipe
from compress.recipe_stages import Qlora
from compress.training.states import STATES
from compress.training.trainer import LOSSES_FILE
from compress.weights import storage
from compress.weights.storage import Form
from tests.compress import narrow
from tests.compress.toy_training import examples

pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")

N_STEPS = 4  # two epochs of four examples, two a step


@pytest.fixture
def source(processor: Qwen2AudioProcessor, tmp_path: Path) -> Checkpoint:
    return narrow.checkpoint(processor, tmp_path / "narrow")


def recipe(stage: Qlora) -> Recipe:
    return Recipe(name="toy", model="toy", language="de", data=Data(source="pocket", domain="talks"), stages=(stage,))


def run(
    stage: Qlora, source: Checkpoint, out: Path, work: Path | None = None, progress: Progress | None = None
) -> Checkpoint:
    return qlora.run(
        stage,
        recipe(stage),
        examples(4),
        source,
        out,
        work or out.with_name(f"{out.name}-work"),
        progress or Progress(disable=True),
        source.path.parent / "cache",
    )


def factors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    assert checkpoint.adapter is not None
    return load_file(checkpoint.adapter / ADAPTER_WEIGHTS)


def test_what_a_run_leaves(source: Checkpoint, tmp_path: Path) -> None:
    made = run(narrow.stage(), source, tmp_path / "student")
    names = {file.name for file in source.path.iterdir()}
    assert {file.name for file in made.path.iterdir()} == names | {"adapter"}
    assert {file.name for file in (made.path / "adapter").iterdir()} == {"adapter_config.json", ADAPTER_WEIGHTS}
    storage.rewrite(source, tmp_path / "paper", Form("all", torch.float32))
    base = {name: tensor for name, tensor in narrow.tensors(made.path).items() if not name.startswith("adapter/")}
    narrow.assert_same_bits(base, narrow.tensors(tmp_path / "paper"))
    assert {tensor.dtype for tensor in factors(made).values()} == {torch.float32}
    lineage = made.lineage
    assert (lineage["name"], lineage["parent"], lineage["layers"]) == ("student", "narrow", [0, 2, 3])
    assert lineage["format"] == "nf4, adapter beside it"
    assert lineage["trainable"]["modules"] == narrow.N_LINEARS
    assert lineage["trainable"]["parameters"] == sum(factor.numel() for factor in factors(made).values())
    assert (lineage["n_examples"], lineage["n_steps"], lineage["language"]) == (4, N_STEPS, "de")
    assert isinstance(lineage["trial"], str)
    assert lineage["history"] == [{**narrow.stage().model_dump(mode="json"), "source": "narrow"}]
    assert {file.name for file in (tmp_path / "student-work").iterdir()} == {LOSSES_FILE, "training.json"}


def test_every_factor_has_learnt(source: Checkpoint, tmp_path: Path) -> None:
    settings = narrow.stage().optimisation.model_copy(update={"epochs": 10, "learning_rate": 3e-3})
    made = run(narrow.stage(optimisation=settings), source, tmp_path / "student")
    # B is zero before
    still = [name for name, factor in factors(made).items() if "lora_B" in name and not factor.any()]
    assert not still
    log = (tmp_path / "student-work" / LOSSES_FILE).read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in log]
    assert len(losses) == 20
    assert sum(losses[-2:]) < sum(losses[:2])
    before, after = (narrow.scores(each.load_model("cpu", torch.float32)) for each in (source, made))
    assert (after - before).abs().max() > 0.01


@pytest.mark.parametrize("master_weights", ["fp32", "bf16"])
def test_the_adapter_is_in_fp32_whatever_lies_under_it(master_weights: str, source: Checkpoint, tmp_path: Path) -> None:
    settings = narrow.stage().optimisation.model_copy(update={"master_weights": master_weights})
    made = run(narrow.stage(optimisation=settings), source, tmp_path / "student")
    learnt = [factor for name, factor in factors(made).items() if "lora_B" in name]
    assert all(factor.dtype == torch.float32 and factor.any() for factor in learnt)
    # bf16 values have no bits down there
    assert any(not torch.equal(factor, factor.to(torch.bfloat16).float()) for factor in learnt)


def test_the_decoder_alone(source: Checkpoint, tmp_path: Path) -> None:
    made = run(narrow.stage(modules="decoder"), source, tmp_path / "student")
    assert all(".language_model." in name for name in factors(made))
    assert made.lineage["trainable"]["modules"] == 7 * narrow.N_LAYERS
    states = [name for name in narrow.tensors(made.path) if name.endswith("bitsandbytes__nf4")]
    assert len(states) == 7 * narrow.N_LAYERS
    # a tower that is not trained hears every clip once
    assert len(list((tmp_path / "cache").glob("encoded-*/*/*.npy"))) == 4


def test_plain_lora(source: Checkpoint, tmp_path: Path) -> None:
    made = run(narrow.stage(quantisation="none"), source, tmp_path / "student")
    assert made.quantisation is None
    assert made.lineage["format"] == "bf16, adapter beside it"
    base = {name: tensor for name, tensor in narrow.tensors(made.path).items() if not name.startswith("adapter/")}
    narrow.assert_same_bits(base, narrow.tensors(source.path))
    assert any(factor.any() for name, factor in factors(made).items() if "lora_B" in name)


def test_gradient_checkpointing_trains_the_same(source: Checkpoint, tmp_path: Path) -> None:
    settings = narrow.stage().optimisation.model_copy(update={"gradient_checkpointing": True})
    found = run(narrow.stage(optimisation=settings), source, tmp_path / "saving")
    wanted = run(narrow.stage(), source, tmp_path / "plain")
    for name, factor in factors(wanted).items():
        torch.testing.assert_close(factors(found)[name], factor)


# --- killed, repeated, refused ----------------------------------------------------------------------------------

KILLED_AT_STEP_3 = """
import os, signal, sys
from pathlib import Path
from rich.progress import Progress
from compress.checkpoint import Checkpoint
from tests.compress import narrow, test_qlora

class Deadly(Progress):
    def update(self, *arguments, completed=None, **settings):
        if completed == 3 and not settings:  # with settings, it is a progress of audio
            os.kill(os.getpid(), signal.SIGKILL)

source, out = map(Path, sys.argv[1:])
test_qlora.run(narrow.stage(), Checkpoint.open(source), out, progress=Deadly(disable=True))
"""


def test_a_killed_run_goes_on_and_ends_the_same(source: Checkpoint, tmp_path: Path) -> None:
    wanted = run(narrow.stage(), source, tmp_path / "wanted")
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED_AT_STEP_3, str(source.path), str(out)]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, check=False, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    assert not out.exists()
    assert [state.name for state in (tmp_path / "killed-work" / STATES).glob("step-*")] == ["step-00000002"]
    made = run(narrow.stage(), source, out)
    narrow.assert_same_bits(narrow.tensors(made.path), narrow.tensors(wanted.path))
    assert made.lineage["loss"] == wanted.lineage["loss"]
    assert not any(tmp_path.glob("killed.*"))


def test_a_finished_run_is_not_repeated_unless_something_is_other(source: Checkpoint, tmp_path: Path) -> None:
    run(narrow.stage(), source, tmp_path / "out")
    written = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    assert run(narrow.stage(), source, tmp_path / "out").name == "out"
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == written
    made = run(narrow.stage(alpha=32), source, tmp_path / "out", tmp_path / "new-work")
    assert made.lineage["history"][-1]["alpha"] == 32


class Stopped(Progress):
    """Ends a run with an error after its base is made."""

    def update(self, *_: Any, completed: float | None = None, **settings: Any) -> None:
        if not settings:  # with settings, it is a progress of audio
            raise KeyboardInterrupt


def test_the_base_is_made_once_and_again_for_other_settings(source: Checkpoint, tmp_path: Path) -> None:
    base = tmp_path / "work" / "base" / "model.safetensors"

    def begin(stage: Qlora) -> int:
        with pytest.raises(KeyboardInterrupt):
            run(stage, source, tmp_path / "out", tmp_path / "work", Stopped(disable=True))
        return base.stat().st_mtime_ns

    first = begin(narrow.stage())
    assert begin(narrow.stage()) == first
    with pytest.raises(RecipeError, match="holds a training with other settings"):
        run(narrow.stage(double_quantisation=False), source, tmp_path / "out", tmp_path / "work")
    assert base.stat().st_mtime_ns > first


def test_a_finished_checkpoint_is_replaced_and_nothing_else_is(source: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "student"
    run(narrow.stage(rank=4), source, out)
    made = run(narrow.stage(), source, out, tmp_path / "other-work")
    assert made.lineage["history"][-1]["rank"] == narrow.RANK
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"")
    with pytest.raises(CheckpointError, match="holds files and is no checkpoint"):
        run(narrow.stage(), source, tmp_path / "photos")
    assert (tmp_path / "photos" / "one.jpg").exists()


def test_an_adapter_over_an_adapter_is_refused(source: Checkpoint, tmp_path: Path) -> None:
    adapted = narrow.adapted(source, tmp_path / "adapted", narrow.stage(), Form("all", torch.float32))
    with pytest.raises(RecipeError, match="adapted has an adapter already: export it merged first"):
        run(narrow.stage(), adapted, tmp_path / "out")


def test_plain_lora_over_4_bits_is_refused(source: Checkpoint, tmp_path: Path) -> None:
    storage.rewrite(source, tmp_path / "nf4", Form("all", torch.bfloat16))
    with pytest.raises(RecipeError, match="nf4 is quantised, and plain asks for quantisation none"):
        run(narrow.stage(quantisation="none", name="plain"), Checkpoint.open(tmp_path / "nf4"), tmp_path / "out")
