"""`run` and the verbs of single stages: what they print and leave, and what a user can do wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compress.checkpoint import Checkpoint
from compress.weights.architectures import Architecture
from tests.compress import toy_pipeline
from tests.compress.commands.conftest import Run


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def model(toy: Path) -> Path:
    return toy.parent / "narrow"


# --- run --------------------------------------------------------------------------------------------------------


def test_a_plan_names_every_stage_and_starts_nothing(run: Run, toy: Path, work: Path) -> None:
    status, _, err = run("run", toy, "--plan", "--work", work)
    assert status == 0
    assert "toy: all stages in a minute" in err
    for name in [*toy_pipeline.NAMES, "distill"]:
        assert re.search(rf"^[│┃|\s]*{name}\s", err, re.MULTILINE), name
    assert "1 x all manifest references + 2 x the distilled ones" in err
    assert re.search(r"\d+\.\d\d GB on disk, at most \d+\.\d\d GB of memory and activations", err)
    assert not work.exists()


def test_the_papers_run_is_planned_in_its_sizes(run: Run, work: Path) -> None:
    status, _, err = run("run", "setup2-de", "--plan", "--work", work)
    for words in ("16.79", "13.56", "8.65", "32/24", "134.35", "100,000 out of domain"):
        assert words in err
    assert "besides, about 35.62 GB of encoded audio, and 16.79 GB for the model from the hub" in " ".join(err.split())
    # whether it fits is this machine's affair
    assert (status, re.search(r"(its|their) disk has", err) is not None) in [(0, False), (2, True)]


def test_a_recipe_without_stages_scores_its_model(run: Run, toy: Path, work: Path) -> None:
    status, out, err = run("run", toy, "--work", work, "--set", "stages=[]")
    assert status == 0, err
    assert out == ""
    assert re.search(r"baseline\s+\S?\s*\d+\.\d\d\s+\S?\s*\d+\.\d\d", err)
    assert err.rstrip().endswith(str(model(toy)))


# --- single stages ----------------------------------------------------------------------------------------------


def test_one_stage_of_a_recipe_on_any_model(run: Run, toy: Path, work: Path) -> None:
    command = ("prune", toy, "--model", model(toy), "--stage", "prune", "--work", work)
    status, _, err = run(*command)
    assert status == 0, err
    made = Checkpoint.open(err.rstrip().splitlines()[-1])
    assert made.path == work / "toy" / "02-prune" / "toy-prune"
    assert Architecture.read(made.path).n_layers == 2
    written = (made.path / "model.safetensors").stat().st_mtime_ns

    assert run(*command)[0] == 0
    assert (made.path / "model.safetensors").stat().st_mtime_ns == written

    status, _, err = run(*command, "--set", "stages.prune.n_remove=2")
    assert status == 2
    assert "n_remove was 1, is 2" in err
    assert "repeat prune with --again" in err
    assert (made.path / "model.safetensors").stat().st_mtime_ns == written

    status, _, err = run(*command, "--set", "stages.prune.n_remove=2", "--again")
    assert status == 0, err
    assert Architecture.read(made.path).n_layers == 1


def test_distilling_ends_with_the_labels(run: Run, toy: Path, work: Path) -> None:
    status, _, err = run("distill", toy, "--model", model(toy), "--work", work)
    assert status == 0, err
    labels = Path(err.rstrip().splitlines()[-1])
    assert labels.parent == work / "toy" / "03-distill"
    assert len(labels.read_text().split("\n")) == 1 + toy_pipeline.N_BY_SPLIT["train"] + 1


# --- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run"], "Missing argument 'RECIPE'"),
        (["run", "setup3-de"], "no recipe setup3-de; shipped ones of a similar name: .*setup1-de"),
        (["run", "TOY", "--set", "seed"], "a place and a value are expected"),
        (["run", "TOY", "--set", "data.path=nowhere.csv"], r"no file nowhere\.csv"),
        (["run", "TOY", "--set", "model=nowhere", "--set", "stages=[]"], "no checkpoint directory at nowhere"),
        (
            ["run", "TOY", "--set", "stages.prune.metric=COMET", "--set", "stages.prune.comet_model=missing.ckpt"],
            r"there is no COMET checkpoint missing\.ckpt",
        ),
        (["run", "TOY", "--again", "shrink"], "no stage shrink in toy; its stages: finetune, prune, distill"),
        (["run", "TOY", "--work", "TOY"], "is a file"),
        (["prune", "TOY"], "Missing option '--model'"),
        (["prune", "TOY", "--model", "NARROW"], "not one prune stage; it has: prune, prune-more"),
        (["finetune", "TOY", "--model", "NARROW", "--stage", "qlora"], "stage qlora; it has: finetune, recover"),
        (["qlora", "pocket-ablation-prune-3-of-12-de", "--model", "NARROW"], "not one qlora stage; it has: none"),
        (["distill", "TOY", "--model", "nowhere"], "no checkpoint directory at nowhere"),
        (["qlora", "TOY", "--model", "NARROW"], "5 of 5 utterances: run the stage distill first"),
    ],
)
def test_a_mistake_is_explained_without_a_traceback(
    run: Run, arguments: list[str], complaint: str, toy: Path, work: Path
) -> None:
    known = {"TOY": str(toy), "NARROW": str(model(toy))}
    given = [known.get(word, word) for word in arguments]
    if "--work" not in given and len(given) > 1:
        given += ["--work", str(work)]
    status, out, err = run(*given)
    assert status == 2
    assert out == ""
    assert re.search(complaint, " ".join(err.split())), err
    assert "Traceback" not in err
    assert not list(work.rglob("*.safetensors"))
