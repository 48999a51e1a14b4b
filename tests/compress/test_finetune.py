"""The stage on a miniature: the files it leaves, and that neither a signal nor a second process changes them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import yaml
from rich.progress import Progress
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress import finetune
from compress.checkpoint import ADAPTER_FOLDER, Checkpoint
from compress.errors import CheckpointError, RecipeError
from compress.model import decoder_layers, save, tower_layers
from compress.recipe_stages import Finetune
from compress.training.states import STATES
from compress.training.trainer import LOSSES_FILE
from compress.weights.architectures import Architecture
from tests.compress.toy_training import Sound, examples, recipe

ROOT: Final = Path(__file__).parents[2]
CONFIGS: Final = ROOT / "compress" / "configs"
LIVES: Final = "lives.txt"
TIMEOUT_S: Final = 240


def stage(**changes: Any) -> Finetune:
    optimisation = {
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "master_weights": "fp32-only",
        "save_every": 2,
    }
    plain = {"stage": "finetune", "frozen": ["tower"]}
    return Finetune.model_validate(plain | changes | {"optimisation": optimisation | changes.get("optimisation", {})})


@pytest.fixture
def source(miniature: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, tmp_path: Path) -> Checkpoint:
    """In fp32, so that nothing is rounded on the way."""
    save(miniature, processor, tmp_path / "source")
    (tmp_path / "source" / "lineage.json").write_text('{"name": "teacher", "layers": [0, 2, 5]}')
    return Checkpoint.open(tmp_path / "source")


def run(source: Checkpoint, directory: Path, chosen: Finetune | None = None, **changes: Any) -> Checkpoint:
    chosen = chosen or stage()
    given: dict[str, Any] = {"recipe": recipe(chosen), "examples": examples(10)} | changes
    with Progress(disable=True) as progress:
        return finetune.run(
            chosen, source=source, out=directory / "out", work=directory / "work", progress=progress, **given
        )


def weights(checkpoint: Path) -> dict[str, Tensor]:
    return load_file(checkpoint / "model.safetensors")


def losses(directory: Path) -> list[float]:
    lines = (directory / "work" / LOSSES_FILE).read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_the_files_it_leaves(source: Checkpoint, tmp_path: Path) -> None:
    made = run(source, tmp_path)
    assert made.path == tmp_path / "out"
    assert {file.name for file in made.path.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "lineage.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {name: tuple(weight.shape) for name, weight in weights(made.path).items()} == Architecture.read(
        made.path
    ).shapes()
    assert not (tmp_path / "work" / STATES).exists()
    assert not list(tmp_path.glob("out.*"))
    assert len(losses(tmp_path)) == 6


def test_the_lineage_says_what_was_done(source: Checkpoint, tmp_path: Path) -> None:
    lineage = run(source, tmp_path).lineage
    assert lineage["name"] == "out"
    assert lineage["parent"] == "teacher"
    assert lineage["layers"] == [0, 2, 5]
    assert lineage["history"] == [stage().model_dump(mode="json") | {"source": "teacher"}]
    assert {"torch", "transformers"} <= lineage["versions"].keys()
    assert (lineage["language"], lineage["prompt"], lineage["format"]) == ("de", "instruct", "fp32")
    assert (lineage["n_examples"], lineage["n_steps"]) == (10, 6)
    assert lineage["loss"] == pytest.approx(sum(losses(tmp_path)[3:]) / 3, abs=1e-4)


def test_only_what_is_not_frozen_changes(source: Checkpoint, tmp_path: Path) -> None:
    before, after = weights(source.path), weights(run(source, tmp_path).path)
    assert before.keys() == after.keys()
    same = {name for name, weight in after.items() if torch.equal(weight, before[name])}
    assert same == {name for name in before if name.startswith("audio_tower.")}


def test_every_part_trains_when_none_is_frozen(source: Checkpoint, tmp_path: Path) -> None:
    before, after = weights(source.path), weights(run(source, tmp_path, stage(frozen=[])).path)
    same = {name for name, weight in after.items() if torch.equal(weight, before[name])}
    assert same == {"audio_tower.embed_positions.weight"}


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bf16"), (torch.float32, "fp32")])
def test_weights_are_stored_as_the_sources_are(
    dtype: torch.dtype,
    name: str,
    miniature: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    tmp_path: Path,
) -> None:
    save(miniature, processor, tmp_path / "source", dtype)
    made = run(Checkpoint.open(tmp_path / "source"), tmp_path, stage(optimisation={"epochs": 1}))
    assert {weight.dtype for weight in weights(made.path).values()} == {dtype}
    assert made.lineage["format"] == name


def test_a_clip_of_a_frozen_tower_is_heard_once(source: Checkpoint, tmp_path: Path) -> None:
    listed = examples(10)
    sounds = [example.audio for example in listed]
    run(source, tmp_path, examples=[*listed, *listed], cache=tmp_path / "cache")
    assert all(isinstance(one, Sound) for one in sounds)
    # the first once more, for the trial
    assert [len(one.loads) for one in sounds if isinstance(one, Sound)] == [2] + [1] * 9
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 10


def test_the_base_models_prompt_is_trained_on_when_the_recipe_says_so(source: Checkpoint, tmp_path: Path) -> None:
    instruct = recipe(stage())
    made = run(source, tmp_path / "base", recipe=instruct.model_copy(update={"prompt": "base"}))
    run(source, tmp_path / "instruct")
    assert made.lineage["prompt"] == "base"
    assert losses(tmp_path / "base") != pytest.approx(losses(tmp_path / "instruct"), rel=1e-3)


# --- again ------------------------------------------------------------------------------------------------------


def test_a_finished_stage_is_not_run_again(source: Checkpoint, tmp_path: Path) -> None:
    made = run(source, tmp_path)
    written = (made.path / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "work")
    assert run(source, tmp_path).path == made.path
    assert (made.path / "model.safetensors").stat().st_mtime_ns == written
    assert not (tmp_path / "work").exists()


def test_a_changed_stage_is_named_and_made_anew_elsewhere(source: Checkpoint, tmp_path: Path) -> None:
    first = weights(run(source, tmp_path).path)
    other = stage(optimisation={"learning_rate": 2e-3})
    with pytest.raises(RecipeError, match=r"learning_rate was 0\.001, is 0\.002"):
        run(source, tmp_path, other)
    assert all(torch.equal(weight, first[name]) for name, weight in weights(tmp_path / "out").items())
    shutil.rmtree(tmp_path / "work")
    second = weights(run(source, tmp_path, other).path)
    assert not torch.equal(second["language_model.lm_head.weight"], first["language_model.lm_head.weight"])


def test_a_directory_of_something_else_is_refused_before_any_training(source: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        run(source, tmp_path)
    assert (tmp_path / "out" / "thesis.tex").exists()
    assert not (tmp_path / "work").exists()


def test_a_source_with_an_adapter_is_refused(source: Checkpoint, tmp_path: Path) -> None:
    (source.path / ADAPTER_FOLDER).mkdir()
    with pytest.raises(RecipeError, match="teacher is quantised or has an adapter"):
        run(source, tmp_path)


# --- in processes of its own ------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    # one thread each, for two processes on two cores; and no GPU, where sums come out differently
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(
    source: Checkpoint, directory: Path, chosen: Finetune, *launcher: str, lives: bool = False
) -> subprocess.Popen[bytes]:
    directory.mkdir(exist_ok=True)
    arguments = ["-m", "tests.compress.toy_training", str(source.path), str(directory), chosen.model_dump_json()]
    if lives:
        arguments += ["--lives", str(directory / LIVES)]
    with (directory / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *launcher, *arguments],
            cwd=ROOT,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def finish(process: subprocess.Popen[bytes], directory: Path) -> None:
    assert process.wait(TIMEOUT_S) == 0, (directory / "output.txt").read_text()


def kill_when(process: subprocess.Popen[bytes], directory: Path, life: int, condition: Callable[[], bool]) -> None:
    """Kills that process of several (see `toy_training`) on a condition that is looked at once it runs."""
    lives = directory / LIVES
    deadline = time.monotonic() + TIMEOUT_S
    while not lives.is_file() or len(lives.read_text().splitlines()) <= life or not condition():
        assert process.poll() is None, (directory / "output.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(int(lives.read_text().split()[life]), signal.SIGKILL)


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_with_the_same_result(source: Checkpoint, tmp_path: Path) -> None:
    chosen = stage(optimisation={"epochs": 8, "batch_size": 2, "save_every": 4})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(source, whole, chosen), whole)
    log = killed / "work" / LOSSES_FILE

    def n_steps() -> int:
        return len(log.read_text().splitlines()) if log.is_file() else 0

    def saving(at_the_latest: int) -> bool:
        return any((killed / "work" / STATES / "partial").glob("checkpoint-*")) or n_steps() >= at_the_latest

    moments: list[Callable[[], bool]] = [
        lambda: any((killed / "work" / "audio").rglob("*.npy")),
        lambda: n_steps() >= 7,
        lambda: n_steps() >= 9 and saving(18),
        lambda: n_steps() >= 21 and saving(30),
        (killed / "out.tmp" / "model.safetensors").is_file,
    ]
    process = start(source, killed, chosen, lives=True)
    for life, moment in enumerate(moments):
        kill_when(process, killed, life, moment)
        assert not (killed / "out").exists()
    finish(process, killed)
    assert len((killed / LIVES).read_text().splitlines()) == len(moments) + 1
    assert losses(killed) == losses(whole)
    assert (killed / "out" / "model.safetensors").read_bytes() == (whole / "out" / "model.safetensors").read_bytes()
    assert Checkpoint.open(killed / "out").lineage == Checkpoint.open(whole / "out").lineage


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [["tower"], []])
def test_two_processes_compute_what_one_does(frozen: list[str], source: Checkpoint, tmp_path: Path) -> None:
    """Ten examples in threes: the last step of an epoch has one, and one process none."""
    chosen = stage(frozen=frozen, optimisation={"batch_size": 3})
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    run(source, one, chosen)
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "ddp.yaml"), "--num_processes", "2"]
    finish(start(source, two, chosen, *launcher), two)
    assert len(losses(two)) == len(losses(one)) == 8
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    alone, together = weights(one / "out"), weights(two / "out")
    for name, weight in alone.items():
        # on average: Adam makes a whole step of a gradient that is nothing but rounding
        assert float((together[name] - weight).abs().mean()) < 1e-5, name


def test_accelerate_reads_the_shipped_configurations_and_asks_how_many_processes() -> None:
    program = (
        "import sys\n"
        "from accelerate.commands.config.config_args import load_config_from_file\n"
        "for path in sys.argv[1:]:\n"
        "    config = load_config_from_file(path)\n"
        "    print(config.distributed_type.value, config.num_processes, config.mixed_precision)\n"
    )
    command = [sys.executable, "-c", program, str(CONFIGS / "ddp.yaml"), str(CONFIGS / "fsdp2.yaml")]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S).stdout
    assert printed.splitlines() == ["MULTI_GPU -1 no", "FSDP -1 no"]


def test_shards_are_cut_along_layers_that_the_model_has(miniature: Qwen2AudioForConditionalGeneration) -> None:
    config = yaml.safe_load((CONFIGS / "fsdp2.yaml").read_text())["fsdp_config"]
    named = set(config["fsdp_transformer_layer_cls_to_wrap"].split(","))
    assert named == {type(layers[0]).__name__ for layers in (decoder_layers(miniature), tower_layers(miniature))}
