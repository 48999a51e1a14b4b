"""Two recipes in one work directory: what they have in common is made once, and what they do not never mixes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import pytest
import yaml
from transformers import Qwen2AudioProcessor

from compress import recipe as recipes
from compress import shared_stages
from compress.checkpoint import POCKET, Checkpoint
from compress.dataset import FileAudio, Utterance
from compress.distill import LABELS_FILE
from compress.pipeline import BASELINE, SCORES_FILE
from compress.prune import EVALUATIONS_FILE
from compress.recipe import Recipe
from compress.recipe_stages import Stage
from compress.shared_stages import CHAIN_FILE, Chain, take_over
from compress.training.collate import TrainingExample
from compress.translate import fingerprint
from compress.weights import storage
from tests.compress import toy_pipeline
from tests.compress.toy_pipeline import pipeline

pytest.importorskip("bitsandbytes", reason="this environment is behind requirements/test.txt")
pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")

SHORT: Final = {"prune-more": None, "recover": None, "qlora": None, "export": None}


@pytest.fixture(scope="module")
def folder(processor: Qwen2AudioProcessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes: `toy`, and others that extend its first stages."""
    folder = tmp_path_factory.mktemp("recipes")
    toy_pipeline.write(folder, processor)
    for name, stages in {
        "first": SHORT,
        "same": SHORT,
        "two-layers": SHORT | {"prune": {"n_remove": 2}},
        "longer": SHORT | {"finetune": {"optimisation": {"epochs": 2}}},
    }.items():
        content = {"name": name, "extends": "toy", "stages": stages}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory after `first`: fine-tuned, pruned, distilled."""
    work = tmp_path_factory.mktemp("finished") / "work"
    pipeline(folder / "first.yaml", work)[0].run()
    return work


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "work"))


def carry_out(recipe: Path, work: Path, again: tuple[str, ...] = ()) -> list[str]:
    """Carries a recipe out; what is printed of stages that were taken over."""
    made, printed = pipeline(recipe, work)
    made.run(again)
    return [line for line in printed.getvalue().splitlines() if " from " in line]


def weights(work: Path, recipe: str, number: int, stage: str) -> Path:
    return work / recipe / f"{number:02d}-{stage}" / f"{recipe}-{stage}" / "model.safetensors"


def lines(file: Path) -> list[str]:
    return file.read_text().split("\n")[:-1]


# --- carried out ------------------------------------------------------------------------------------------------


def test_what_another_recipe_has_made_is_taken_over_with_its_scores(folder: Path, work: Path) -> None:
    said = carry_out(folder / "same.yaml", work)
    assert said == [f"{name}: taken over from first" for name in (BASELINE, "finetune", "prune", "distill")]
    for number, stage in ((1, "finetune"), (2, "prune")):
        ours, theirs = (weights(work, name, number, stage) for name in ("same", "first"))
        assert ours.samefile(theirs)
        assert Checkpoint.open(ours.parent).name == f"first-{stage}"  # the name that it was made under
        assert (ours.parents[1] / SCORES_FILE).read_text() == (theirs.parents[1] / SCORES_FILE).read_text()
    ours, theirs = (work / name / "03-distill" / LABELS_FILE for name in ("same", "first"))
    assert lines(ours) == lines(theirs)
    assert not ours.samefile(theirs)  # it is appended to
    assert not list(work.rglob("*.tmp"))
    assert carry_out(folder / "same.yaml", work) == []


def test_what_differs_is_made(folder: Path, work: Path) -> None:
    assert carry_out(folder / "longer.yaml", work) == [f"{BASELINE}: taken over from first"]
    assert Checkpoint.open(weights(work, "longer", 1, "finetune").parent).name == "longer-finetune"


def test_a_longer_search_goes_on_from_a_shorter_one(folder: Path, work: Path) -> None:
    said = carry_out(folder / "two-layers.yaml", work)
    assert said[2] == "prune: the search goes on from that of first"
    before, after = (lines(work / name / "02-prune" / EVALUATIONS_FILE) for name in ("first", "two-layers"))
    assert after[: len(before)] == before
    assert len(after) == len(before) + 2  # three layers less the one that is gone
    chosen = [Checkpoint.open(weights(work, name, 2, "prune").parent).lineage for name in ("first", "two-layers")]
    assert chosen[1]["removed"][:1] == chosen[0]["removed"]
    # and a shorter one begins like a longer one
    shutil.rmtree(work / "first")
    assert carry_out(folder / "same.yaml", work)[2] == "prune: the search goes on from that of two-layers"
    assert lines(work / "same" / "02-prune" / EVALUATIONS_FILE) == after


def test_a_stage_that_is_to_be_repeated_is_not_taken_over(folder: Path, work: Path) -> None:
    carry_out(folder / "same.yaml", work)
    assert carry_out(folder / "same.yaml", work, again=("finetune",)) == []
    ours, theirs = (weights(work, name, 1, "finetune") for name in ("same", "first"))
    assert not ours.samefile(theirs)
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_kill_on_the_way_leaves_nothing_half(folder: Path, work: Path) -> None:
    half = work / "same" / "01-finetune.tmp"
    half.mkdir(parents=True)
    (half / "leftover").touch()
    begun = work / "same" / "01-finetune"
    (begun / "states").mkdir(parents=True)
    assert "finetune: taken over from first" in carry_out(folder / "same.yaml", work)
    assert not half.exists()
    assert not (begun / "states").exists()
    assert not (begun / "leftover").exists()


def test_what_is_not_whole_is_not_taken_over(folder: Path, work: Path) -> None:
    place = work / "first" / "01-finetune"
    made = json.loads((place / CHAIN_FILE).read_text())
    shutil.rmtree(place / "first-finetune")
    assert take_over(work / "same" / "01-finetune", made) is None
    place = work / "first" / "03-distill"
    made = json.loads((place / CHAIN_FILE).read_text())
    place.rename(place.with_name("03-distill.tmp"))
    assert take_over(work / "same" / "03-distill", made) is None
    place.with_name("03-distill.tmp").rename(place)
    (place / LABELS_FILE).unlink()
    assert take_over(work / "same" / "03-distill", made) is None


def test_a_stage_of_its_own_has_no_chain(folder: Path, work: Path) -> None:
    made, _ = pipeline(folder / "first.yaml", work)
    made.single(made.recipe.stages[0], made.recipe.model, repeat=False)
    assert not (work / "first" / "01-finetune" / CHAIN_FILE).exists()


# --- chains -----------------------------------------------------------------------------------------------------


def chain(name: str, stage: str, file: Path, *settings: str) -> Chain:
    """Of a shipped recipe, whatever its data: they are one sound here."""
    found = recipes.load(name, settings)
    pocket, read = Checkpoint.open(POCKET), [TrainingExample("u0", FileAudio(file), "Guten Tag.")]
    return shared_stages.chain(found, of(found, stage), pocket, pocket, read)


def of(found: Recipe, name: str) -> Stage:
    return next(stage for stage in found.stages if stage.name == name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "sound.wav").write_bytes(b"RIFF")
    return tmp_path / "sound.wav"


@pytest.mark.parametrize(
    ("stage", "recipe", "other"),
    [
        ("finetune", "pocket-setup1-de", "pocket-setup2-de"),
        ("distill", "pocket-setup1-de", "pocket-setup2-de"),
        ("prune", "pocket-setup2-de", "pocket-ablation-prune-3-of-12-de"),
        ("prune", "pocket-ablation-prune-3-of-12-de", "pocket-ablation-finetune-only-before-pruning-de"),
        ("recover", "pocket-setup2-de", "pocket-ablation-out-of-domain-640-de"),
        ("recover", "setup2-zh", "ablation-lora-for-speed-zh"),
    ],
)
def test_stages_that_are_the_same(stage: str, recipe: str, other: str, file: Path) -> None:
    assert chain(recipe, stage, file) == chain(other, stage, file)


@pytest.mark.parametrize(
    ("stage", "recipe", "other"),
    [
        ("finetune", "pocket-setup1-de", "pocket-setup1-zh"),
        ("recover", "pocket-setup2-de", "pocket-ablation-prune-3-of-12-de"),
        ("qlora", "pocket-setup2-de", "pocket-ablation-out-of-domain-640-de"),
        ("qlora", "pocket-setup1-de", "pocket-ablation-no-distillation-de"),
        ("recover", "pocket-ablation-prune-3-of-12-de", "pocket-ablation-prune-middle-de"),
        ("prune", "pocket-ablation-prune-3-of-12-de", "pocket-ablation-finetune-only-after-pruning-de"),
    ],
)
def test_stages_that_are_not(stage: str, recipe: str, other: str, file: Path) -> None:
    assert chain(recipe, stage, file) != chain(other, stage, file)


def test_a_chain_names_what_a_stage_builds_on_and_nothing_else(file: Path) -> None:
    def names(recipe: str, stage: str) -> list[tuple[str, str | None]]:
        return [(one["name"], one["source"]) for one in chain(recipe, stage, file)["stages"]]

    assert names("setup2-de", "distill") == [("finetune", None), ("distill", "finetune")]
    assert names("setup2-de", "recover") == [
        ("finetune", None),
        ("prune", "finetune"),
        ("distill", "finetune"),
        ("recover", "prune"),
    ]
    assert names("ablation-prune-8-of-32-de", "recover") == [
        ("finetune", None),
        ("prune", "finetune"),
        ("recover", "prune"),
    ]
    assert chain("setup2-de", "recover", file)["out_of_domain"] is None
    assert chain("setup2-de", "qlora", file)["out_of_domain"]["source"] == "covost2"


def test_work_of_earlier_versions_is_still_known(file: Path) -> None:
    """Digests as the version before COMET scored results wrote them: another one would make everything anew."""
    content = {
        "name": "toy",
        "model": "toy",
        "language": "de",
        "data": {"source": "pocket", "domain": "talks"},
        "stages": [{"stage": "finetune"}, {"stage": "prune", "n_remove": 2}],
    }
    model = Checkpoint(Path("teacher"), "teacher", {}, 1000)
    sound = FileAudio(file)
    for settings in ({}, {"comet_model": "someone/judge"}):
        recipe = recipes.parse(content | settings, "toy")
        prune = recipe.stages[1]
        made = shared_stages.chain(recipe, prune, model, model, [TrainingExample("u", sound, "Guten Tag.")])
        assert storage.digest(made) == "ca7507fdb75c"
        data = fingerprint(recipe, [Utterance("u", sound, "Guten Tag.")])
        assert storage.digest(model.identity, data) == "01deedf9663a"  # of its scores
        assert storage.digest(prune.model_dump(mode="json"), data, model.identity) == "0b867d1e0024"


def test_other_data_make_another_chain(file: Path) -> None:
    before = chain("pocket-setup1-de", "finetune", file)
    assert chain("pocket-setup1-de", "finetune", file, "data.n_train=9") != before
    file.write_bytes(b"OggS")
    assert chain("pocket-setup1-de", "finetune", file) != before
