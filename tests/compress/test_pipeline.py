"""A real recipe of all stages on a small model: what it leaves, what a second run repeats, what a signal changes."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from transformers import Qwen2AudioProcessor

from compress import audio_plan
from compress import recipe as recipes
from compress.audio import SAMPLE_RATE
from compress.card import CARD_FILE
from compress.checkpoint import Checkpoint
from compress.distill import LABELS_FILE
from compress.errors import CheckpointError, RecipeError
from compress.model import decoder_layers
from compress.pipeline import BASELINE, SCORES_FILE, Result
from compress.prune import EVALUATIONS_FILE
from compress.training.trainer import LOSSES_FILE
from compress.weights import storage
from tests.compress import comet_stand_in, narrow, toy_pipeline
from tests.compress.conftest import sound
from tests.compress.containers import encode
from tests.compress.toy_pipeline import N_BY_SPLIT, NAMES, carry_out, pipeline

pytest.importorskip("bitsandbytes", reason="this environment is behind requirements/test.txt")
pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")

ROOT: Final = Path(__file__).parents[2]
NUMBERS: Final = {
    BASELINE: 0,
    "finetune": 1,
    "prune": 2,
    "distill": 3,
    "prune-more": 4,
    "recover": 5,
    "qlora": 6,
    "export": 7,
}

Finished = tuple[Path, list[Result], str]


@pytest.fixture(scope="module")
def recipe(processor: Qwen2AudioProcessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_pipeline.write(tmp_path_factory.mktemp("recipe"), processor)


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The recipe carried out: its work directory, its results, and what was printed."""
    work = tmp_path_factory.mktemp("finished") / "work"
    made, printed = pipeline(recipe, work)
    results = made.run()
    return work, results, printed.getvalue()


@pytest.fixture
def work(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished work, as old as that is."""
    return Path(shutil.copytree(finished[0], tmp_path / "work"))


def place(work: Path, name: str) -> Path:
    return work / "toy" / f"{NUMBERS[name]:02d}-{name}"


def checkpoint(work: Path, name: str) -> Checkpoint:
    return Checkpoint.open(place(work, name) / f"toy-{name}")


def labels(work: Path) -> dict[str, str]:
    """The teacher's translations by utterance."""
    lines = (place(work, "distill") / LABELS_FILE).read_text().split("\n")[1:-1]
    return {label["id"]: label["text"] for label in map(json.loads, lines)}


def scores(work: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((place(work, name) / SCORES_FILE).read_text())["scores"]
    return found


def ages(directory: Path, pattern: str = "*") -> dict[str, int]:
    """When each file was written."""
    files = (file for file in directory.rglob(pattern) if file.is_file())
    return {str(file.relative_to(directory)): file.stat().st_mtime_ns for file in files}


# --- what it leaves ---------------------------------------------------------------------------------------------


def test_every_stage_leaves_a_checkpoint_that_loads(finished: Finished) -> None:
    work, results, _ = finished
    assert [result.stage for result in results] == [BASELINE, *NAMES]
    n_layers = dict(zip(NAMES, [3, 2, 1, 1, 1, 1], strict=True))
    for result in results[1:]:
        made = checkpoint(work, result.stage)
        assert result.checkpoint == made
        assert made.name == f"toy-{result.stage}"
        assert len(decoder_layers(made.load_model("cpu", torch.float32))) == n_layers[result.stage]
        assert len(made.lineage["layers"]) == n_layers[result.stage]
        assert (made.quantisation is not None) == (result.stage in ("qlora", "export"))
    assert not list(work.rglob("*.tmp"))


def test_the_last_lineage_tells_the_whole_way(finished: Finished) -> None:
    lineage = checkpoint(finished[0], "export").lineage
    assert [step["name"] for step in lineage["history"]] == NAMES
    assert [step["source"] for step in lineage["history"]] == ["narrow", *(f"toy-{name}" for name in NAMES[:-1])]
    assert set(lineage["layers"]) < {0, 2, 3}


def test_every_checkpoint_is_scored_on_the_report_split(finished: Finished) -> None:
    work, results, printed = finished
    for result in results:
        assert len(result.report.hypotheses) == N_BY_SPLIT["report"]
        found = [(one.metric, one.n, one.split) for one in result.report.scores]
        assert found == [("BLEU", 3, "report"), ("chrF++", 3, "report")]
        assert scores(work, result.stage) == [one.as_json() for one in result.report.scores]
        assert f"{result.stage} on report: BLEU {result.report.overall('BLEU').value:.2f} (" in printed


def test_every_checkpoint_says_itself_how_well_it_translates(finished: Finished, recipe: Path) -> None:
    work, results, _ = finished
    for result in results[1:]:
        made = checkpoint(work, result.stage)
        assert made.lineage["scores"] == [one | {"paper_parity": False} for one in scores(work, result.stage)]
        bleu = result.report.overall("BLEU")
        card = (made.path / CARD_FILE).read_text()
        assert f"| report |  | de | BLEU | {bleu.value:.2f} ({bleu.low:.2f}–{bleu.high:.2f}) | 3 |" in card
        assert f"`{bleu.signature}`" in card
    assert "scores" not in results[0].checkpoint.lineage  # which is the user's


def test_scores_are_entered_where_a_kill_came_before_that(recipe: Path, work: Path) -> None:
    made, before = checkpoint(work, "prune"), ages(work)
    storage.write_lineage(made.path, {key: value for key, value in made.lineage.items() if key != "scores"})
    (made.path / CARD_FILE).unlink()
    carry_out(recipe, work)
    assert checkpoint(work, "prune").lineage == made.lineage
    changed = {name for name, age in ages(work).items() if age != before.get(name)}
    assert changed == {f"toy/02-prune/toy-prune/{name}" for name in ("lineage.json", CARD_FILE)}


def test_the_teachers_labels_are_trained_on(finished: Finished, recipe: Path) -> None:
    work, _, printed = finished
    said, n_train = labels(work), N_BY_SPLIT["train"]
    assert list(said) == [f"u{i}" for i in range(n_train)]
    lines = (recipe.parent / "data" / "manifest.jsonl").read_text().splitlines()[:n_train]
    n_kept = sum(said[row["id"]] not in ("", row["translation"]) for row in map(json.loads, lines))
    assert n_kept
    assert f"{n_kept} are kept" in printed
    assert checkpoint(work, "finetune").lineage["n_examples"] == n_train
    for name in ("recover", "qlora"):
        assert checkpoint(work, name).lineage["n_examples"] == n_train + 2 * n_kept


def test_recovery_leaves_alone_what_fine_tuning_left_alone(finished: Finished) -> None:
    before, after = (narrow.tensors(checkpoint(finished[0], name).path) for name in ("prune", "prune-more"))
    tower = {name for name in after if name.startswith("audio_tower.")}
    assert tower
    assert all(torch.equal(after[name], before[name]) for name in tower)
    assert not torch.equal(after["language_model.lm_head.weight"], before["language_model.lm_head.weight"])
    assert (place(finished[0], "prune-more") / "01" / "recovery" / LOSSES_FILE).is_file()


def test_the_cache_holds_the_sounds_that_were_planned(finished: Finished, recipe: Path) -> None:
    planned: dict[object, int] = {}
    chosen = recipes.load(recipe)
    for ear, (data, split) in audio_plan.heard(chosen):
        planned[ear] = planned.get(ear, 0) + audio_plan.n_utterances(data, "de", split)
    folders = [folder for folder in (finished[0] / "audio").iterdir() if folder.is_dir()]
    n_by_folder = {folder.name: len(list(folder.rglob("*.npy"))) for folder in folders}
    assert n_by_folder.pop("samples") == planned.pop("samples")
    assert sorted(n_by_folder.values()) == sorted(planned.values())


# --- again ------------------------------------------------------------------------------------------------------


def test_a_second_run_repeats_nothing(finished: Finished, recipe: Path, work: Path) -> None:
    before = ages(work)
    results = carry_out(recipe, work)
    assert ages(work) == before
    assert [result.report for result in results] == [result.report for result in finished[1]]


def test_a_stage_is_repeated_when_asked_for(recipe: Path, work: Path) -> None:
    before, weights = ages(work), narrow.tensors(checkpoint(work, "recover").path)
    carry_out(recipe, work, again=["recover"])
    changed = {name for name, age in ages(work).items() if age != before.get(name)}
    assert "toy/05-recover/toy-recover/model.safetensors" in changed
    assert all(name.startswith("toy/05-recover/") for name in changed), changed
    narrow.assert_same_bits(narrow.tensors(checkpoint(work, "recover").path), weights)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("stages.prune.n_remove=2", r"other settings \(n_remove was 1, is 2\): repeat prune with --again"),
        ("stages.finetune.optimisation.epochs=2", r"optimisation was .*'epochs': 1,.*, is .*'epochs': 2,"),
        ("stages.export.layout=paper", "layout was 'compact', is 'paper'"),
        ("stages.prune-more.recovery=", r"recovery was \{.*\}, is None"),
        ("data.n_train=4", r"other settings \(training set was '\w+', is '\w+'\)"),
        ("prompt=base", r"other settings \(training set was '\w+', is '\w+'\)"),
        ("max_new_tokens=6", r"another search \(data was '\w+', is '\w+'\)"),
    ],
)
def test_a_changed_setting_is_named_and_nothing_is_overwritten(
    setting: str, complaint: str, recipe: Path, work: Path
) -> None:
    before = ages(work, "*.safetensors")
    with pytest.raises(RecipeError, match=complaint):
        carry_out(recipe, work, settings=[setting])
    assert ages(work, "*.safetensors") == before


# --- COMET ------------------------------------------------------------------------------------------------------


def judged(recipe: Path, work: Path, environment: Path, settings: list[str]) -> tuple[list[Result], str]:
    """Carried out with COMET from that environment, and what was printed."""
    made, printed = pipeline(recipe, work, settings)
    return replace(made, comet_environment=environment).run(), printed.getvalue()


def test_comet_is_added_to_a_finished_run_and_stays(recipe: Path, work: Path, tmp_path: Path) -> None:
    environment, before = comet_stand_in.install(tmp_path / "environment"), ages(work)
    results, printed = judged(recipe, work, environment, ["comet_model=someone/judge"])
    assert [result.stage for result in results] == [BASELINE, *NAMES]
    assert len(comet_stand_in.calls(environment)) == len(results)
    changed = {Path(name).name for name, age in ages(work).items() if age != before.get(name)}
    assert changed == {SCORES_FILE, "lineage.json", CARD_FILE}
    for result in results:
        comet = result.report.overall("COMET")
        assert scores(work, result.stage)[-1] == comet.as_json()
        assert f", COMET {comet.value:.2f} ({comet.low:.1f}–{comet.high:.1f})" in printed
    last = results[-1].checkpoint
    assert last.lineage["scores"][-1] == results[-1].report.overall("COMET").as_json() | {"paper_parity": False}
    assert "`nrefs:1|bs:1000|seed:12345|model:someone/judge|" in (last.path / CARD_FILE).read_text()
    before = ages(work)
    again = carry_out(recipe, work)
    assert [result.report for result in again] == [result.report for result in results]
    assert ages(work) == before


def test_comet_that_cannot_be_had_is_refused_before_any_training(recipe: Path, tmp_path: Path) -> None:
    environment, work = comet_stand_in.install(tmp_path / "environment"), tmp_path / "work"
    with pytest.raises(RecipeError, match=r"COMET needs an environment of its own, .*: run `make comet`"):
        judged(recipe, work, tmp_path / "nowhere", ["comet_model=someone/judge"])
    with pytest.raises(CheckpointError, match="COMET could not get someone/missing"):
        judged(recipe, work, environment, ["comet_model=someone/missing"])
    assert not work.exists()


def test_comet_without_transcripts_is_refused_before_any_training(recipe: Path, tmp_path: Path) -> None:
    environment, work = comet_stand_in.install(tmp_path / "environment"), tmp_path / "work"
    data = Path(shutil.copytree(recipe.parent / "data", tmp_path / "data"))
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    for row in rows:
        del row["transcript"]
    (data / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RecipeError, match="COMET needs English transcripts: 3 of 3 utterances to report on have none"):
        judged(recipe, work, environment, ["comet_model=someone/judge", f"data.path={data / 'manifest.jsonl'}"])
    assert not (work / "toy").exists()


# --- refused at once --------------------------------------------------------------------------------------------


def test_a_stage_that_is_not_there_cannot_be_repeated(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no stage shrink in toy; its stages: finetune, prune, distill, prune-more,"):
        carry_out(recipe, tmp_path / "work", again=["shrink", "prune"])
    assert not (tmp_path / "work").exists()


def test_a_search_that_cannot_be_made_is_refused_before_any_training(recipe: Path, tmp_path: Path) -> None:
    settings = ["stages.prune-more.metric=COMET", "stages.prune-more.comet_model=missing.ckpt"]
    with pytest.raises(CheckpointError, match=r"there is no COMET checkpoint missing\.ckpt"):
        carry_out(recipe, tmp_path / "work", settings=settings)
    assert not (tmp_path / "work").exists()


def test_a_missing_split_is_noticed_before_any_training_and_only_if_needed(recipe: Path, tmp_path: Path) -> None:
    data, work = shutil.copytree(recipe.parent / "data", tmp_path / "data"), tmp_path / "work"
    lines = (data / "manifest.jsonl").read_text().splitlines(keepends=True)
    (data / "manifest.jsonl").write_text("".join(line for line in lines if '"search"' not in line))
    place_of_data = f"data.path={data / 'manifest.jsonl'}"
    with pytest.raises(RecipeError, match="no utterance is declared to be in split search"):
        carry_out(recipe, work, settings=[place_of_data])
    assert not (work / "toy").exists()
    (only,) = carry_out(recipe, work, settings=[place_of_data, "stages=[]"])
    assert only.stage == BASELINE


def flawed(recipe: Path, directory: Path) -> list[str]:
    """Settings for data of which `u1` is no sound and `[/u2]` lasts two seconds."""
    data = Path(shutil.copytree(recipe.parent / "data", directory))
    (data / "1.wav").write_bytes(b"RIFF")
    (data / "2.wav").write_bytes(encode(sound(2).astype(np.float64)[None], SAMPLE_RATE, "wav"))
    manifest = data / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"id": "u2"', '"id": "[/u2]"'))
    return [f"data.path={manifest}", "data.max_s=1"]


def test_sounds_that_cannot_be_used_are_all_named(recipe: Path, tmp_path: Path) -> None:
    settings = flawed(recipe, tmp_path / "data")
    with pytest.raises(RecipeError) as caught:
        carry_out(recipe, tmp_path / "work", settings=settings)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("manifest train: 2 of 5 utterances cannot be used")
    assert [line.strip().split(": ")[0] for line in lines] == ["u1", "[/u2]"]
    assert "longer than the limit of 1 s" in lines[1]
    assert not (tmp_path / "work" / "toy").exists()


def test_sounds_that_cannot_be_used_are_left_out_and_named(recipe: Path, tmp_path: Path) -> None:
    settings, work = [*flawed(recipe, tmp_path / "data"), "data.on_problem=skip"], tmp_path / "work"
    seen = []
    for _ in range(2):
        made, printed = pipeline(recipe, work, settings)
        assert [one.id for one in made.split("train")] == ["u0", "u3", "u4"]
        assert "left out: u1: " in printed.getvalue()
        assert "left out: [/u2]: the audio is longer than the limit of 1 s" in printed.getvalue()
        assert "manifest train: 2 left out, 3 are used" in printed.getvalue()
        seen.append(ages(work))
    assert seen[0] == seen[1] != {}


# --- one stage, other data --------------------------------------------------------------------------------------


def test_one_stage_needs_the_labels_that_it_mixes(recipe: Path, tmp_path: Path) -> None:
    chosen = pipeline(recipe, tmp_path / "work")[0].recipe
    stages = {stage.name: stage for stage in chosen.stages}

    def single(name: str) -> Path:
        return pipeline(recipe, tmp_path / "work")[0].single(stages[name], chosen.model, repeat=False)

    with pytest.raises(RecipeError, match="translations of 5 of 5 utterances: run the stage distill first"):
        single("recover")
    assert single("distill") == place(tmp_path / "work", "distill") / LABELS_FILE
    n_kept = sum(map(bool, labels(tmp_path / "work").values()))
    assert n_kept
    assert Checkpoint.open(single("recover")).lineage["n_examples"] == 5 + 2 * n_kept


def test_paper_parity_is_said_beside_every_score(recipe: Path, tmp_path: Path) -> None:
    made, printed = pipeline(recipe, tmp_path / "work", ["stages=[]", "data.paper_parity=true"])
    made.run()
    assert "baseline on report (paper parity: searched on, too): BLEU" in printed.getvalue()


# --- killed -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_weights(recipe: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    shares = [f"{rng.uniform(0.05, 0.4):.3f}" for _ in range(4)]
    print(f"seed {seed}: killed after {', '.join(shares)} of the time")
    command = [sys.executable, "-m", "tests.compress.toy_pipeline", str(recipe), str(whole), str(killed), *shares]
    ended = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=540
    )
    assert ended.returncode == 0, ended.stdout
    for name in NAMES:
        wanted, found = checkpoint(whole, name), checkpoint(killed, name)
        narrow.assert_same_bits(narrow.tensors(found.path), narrow.tensors(wanted.path))
        assert found.lineage == wanted.lineage
        assert scores(killed, name) == scores(whole, name)
    assert labels(killed) == labels(whole)
    lines = (place(killed, "prune") / EVALUATIONS_FILE).read_text().split("\n")[1:-1]
    layers = [json.loads(line)["layer"] for line in lines]
    assert sorted(layers) == [0, 1, 2]
    assert not [file for file in (killed / "toy").rglob("*.tmp") if file.is_dir()]
