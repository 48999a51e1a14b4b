"""Layers that go one by one, each followed by fine-tuning: what comes of it, what is kept, and where a run goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import Qwen2AudioProcessor

from compress import model
from compress.checkpoint import Checkpoint
from compress.errors import RecipeError
from compress.prune import ROUNDS_FILE
from compress.recipe_stages import Optimisation
from compress.recovery import STEPS_FILE, Recovery
from compress.search.greedy import Round
from compress.weights import storage
from compress.weights.architectures import Architecture
from tests.compress import narrow, pruning
from tests.compress.pruning import LAYERS, run, stage, utterances
from tests.compress.search.setting import N_LAYERS, Setting


@pytest.fixture(scope="module")
def setting(processor: Qwen2AudioProcessor) -> Setting:
    return pruning.searched(processor)[0]


@pytest.fixture(scope="module")
def wanted(processor: Qwen2AudioProcessor) -> list[Round]:
    return pruning.searched(processor)[1]


@pytest.fixture
def source(setting: Setting, tmp_path: Path) -> Checkpoint:
    return pruning.write(setting, tmp_path / "source")


class Stop(BaseException):
    """Ends a run as a signal would: nobody catches it."""


@dataclass
class Doubling:
    """Stands for fine-tuning: doubles every score, which changes weights and no translation.

    Attributes:
        stop: (n, when) to end the run at the n-th model: `before` it is made, or `after` that.
        seen: decoder layers of each model that it was given.
        there: models on disk whenever it was called.
    """

    stop: tuple[int, str] | None = None
    seen: list[int] = field(default_factory=list)
    there: list[list[str]] = field(default_factory=list)

    def __call__(self, source: Checkpoint, out: Path, work: Path) -> Checkpoint:
        self.seen.append(Architecture.read(source.path).n_layers)
        self.there.append(models(work.parents[1]))
        if self.stop == (len(self.seen), "before"):
            raise Stop
        network = source.load_model("cpu", torch.float32)
        network.lm_head.weight.data *= 2
        temporary = storage.begin(out)
        model.save(network, source.load_processor(), temporary)
        storage.write_lineage(temporary, source.descend(out.name, {"stage": "doubling"}))
        made = storage.finish(temporary, out)
        if self.stop == (len(self.seen), "after"):
            raise Stop
        return made


def models(work: Path) -> list[str]:
    """Directories with weights."""
    return sorted(str(file.parent.relative_to(work)) for file in work.rglob("*.safetensors"))


def test_recovery_follows_every_removal(
    source: Checkpoint, setting: Setting, wanted: list[Round], tmp_path: Path
) -> None:
    doubling = Doubling()
    settings = stage(recovery=Optimisation())
    made = run(settings, source, tmp_path, utterances(setting.references), recovery=Recovery("", doubling))
    assert doubling.seen == [N_LAYERS - 1, N_LAYERS - 2]
    gone = [one.removed for one in wanted]
    assert made.lineage["removed"] == [LAYERS[layer] for layer in gone]
    assert made.lineage["search"]["scores"] == [one.chosen.score for one in wanted]
    assert made.lineage["parent"] == "teacher"
    assert [step["stage"] for step in made.lineage["history"]] == ["prune"]
    head = "language_model.lm_head.weight"
    before = narrow.tensors(source.path)[head]
    assert torch.equal(narrow.tensors(made.path)[head], 4 * before)
    assert sorted(made.lineage["layers"] + made.lineage["removed"]) == LAYERS
    held, whole = narrow.tensors(made.path), narrow.tensors(source.path)
    for number, layer in enumerate(made.lineage["layers"]):
        name = "language_model.model.layers.{}.mlp.up_proj.weight"
        assert torch.equal(held[name.format(number)], whole[name.format(LAYERS.index(layer))])


def test_rounds_with_recovery_are_numbered_as_in_the_whole_model(
    source: Checkpoint, setting: Setting, wanted: list[Round], tmp_path: Path
) -> None:
    settings = stage(recovery=Optimisation())
    made = run(settings, source, tmp_path, utterances(setting.references), recovery=Recovery("", Doubling()))
    first, second = json.loads((made.path / ROUNDS_FILE).read_text())
    gone = [one.removed for one in wanted]
    assert (first["before"], first["removed"]) == ([], gone[0])
    assert (second["before"], second["removed"]) == ([gone[0]], gone[1])
    left = [layer for layer in range(N_LAYERS) if layer != gone[0]]
    assert [one["layer"] for one in second["evaluations"]] == left


def test_a_protected_layer_is_the_same_one_in_every_round(source: Checkpoint, setting: Setting, tmp_path: Path) -> None:
    settings = stage(n_remove=N_LAYERS - 1, protected=[1], recovery=Optimisation())
    made = run(settings, source, tmp_path, utterances(setting.references), recovery=Recovery("", Doubling()))
    assert made.lineage["layers"] == [LAYERS[1]]


def test_too_many_removals_are_refused_before_any_recovery(
    source: Checkpoint, setting: Setting, tmp_path: Path
) -> None:
    doubling = Doubling()
    settings = stage(n_remove=5, protected=[0], recovery=Optimisation())
    with pytest.raises(RecipeError, match="cannot remove 5 layers: 4 of 5 are candidates"):
        run(settings, source, tmp_path, utterances(setting.references), recovery=Recovery("", doubling))
    assert doubling.seen == []
    with pytest.raises(RecipeError, match="prune asks for recovery: it needs training data"):
        run(stage(recovery=Optimisation()), source, tmp_path, utterances(setting.references))


# --- on the way -------------------------------------------------------------------------------------------------


def test_only_the_last_model_is_kept(source: Checkpoint, setting: Setting, tmp_path: Path) -> None:
    doubling = Doubling()
    settings = stage(n_remove=3, recovery=Optimisation())
    run(settings, source, tmp_path, utterances(setting.references), recovery=Recovery("", doubling))
    assert doubling.there == [["01/pruned"], ["02/pruned"], ["03/pruned"]]
    assert models(tmp_path / "work") == []
    left = {str(file.relative_to(tmp_path / "work")) for file in (tmp_path / "work").rglob("*") if file.is_file()}
    assert left == {f"0{number}/evaluations.jsonl" for number in (1, 2, 3)}


@pytest.mark.parametrize(
    ("stop", "there", "rest"),
    [
        ((1, "before"), ["01/pruned"], 3),
        ((1, "after"), ["01/pruned", "01/recovered"], 3),
        ((2, "before"), ["02/pruned"], 2),
        ((3, "after"), ["03/pruned", "03/recovered"], 1),
    ],
)
def test_a_run_that_was_ended_goes_on_from_the_last_model(
    stop: tuple[int, str], there: list[str], rest: int, source: Checkpoint, setting: Setting, tmp_path: Path
) -> None:
    settings, listed = stage(n_remove=3, recovery=Optimisation()), utterances(setting.references)
    whole = run(settings, source, tmp_path / "whole", listed, recovery=Recovery("", Doubling()))
    with pytest.raises(Stop):
        run(settings, source, tmp_path, listed, recovery=Recovery("", Doubling(stop)))
    assert models(tmp_path / "work") == there
    doubling = Doubling()
    made = run(settings, source, tmp_path, listed, recovery=Recovery("", doubling))
    assert doubling.seen == [N_LAYERS - number for number in (1, 2, 3)][-rest:]
    assert made.lineage == whole.lineage
    narrow.assert_same_bits(narrow.tensors(made.path), narrow.tensors(whole.path))
    assert (made.path / ROUNDS_FILE).read_text() == (whole.path / ROUNDS_FILE).read_text()
    assert models(tmp_path / "work") == []


def test_a_run_goes_on_from_a_recovered_model(source: Checkpoint, setting: Setting, tmp_path: Path) -> None:
    """As a kill leaves it during the search that follows."""
    settings, listed = stage(recovery=Optimisation()), utterances(setting.references)
    with pytest.raises(Stop):
        run(settings, source, tmp_path, listed, recovery=Recovery("", Doubling((1, "after"))))
    shutil.rmtree(tmp_path / "work" / "01" / "pruned")
    doubling = Doubling()
    run(settings, source, tmp_path, listed, recovery=Recovery("", doubling))
    assert doubling.seen == [N_LAYERS - 2]


def test_models_of_another_recovery_are_made_anew(source: Checkpoint, setting: Setting, tmp_path: Path) -> None:
    settings, listed = stage(recovery=Optimisation()), utterances(setting.references)
    with pytest.raises(Stop):
        run(settings, source, tmp_path, listed, recovery=Recovery("one", Doubling((2, "before"))))
    doubling = Doubling()
    run(settings, source, tmp_path, listed, recovery=Recovery("other", doubling))
    assert doubling.seen == [N_LAYERS - 1, N_LAYERS - 2]


def test_a_recovered_model_of_another_recovery_is_never_taken(
    source: Checkpoint, setting: Setting, tmp_path: Path
) -> None:
    settings, listed = stage(recovery=Optimisation()), utterances(setting.references)
    with pytest.raises(Stop):
        run(settings, source, tmp_path, listed, recovery=Recovery("one", Doubling((1, "after"))))
    shutil.rmtree(tmp_path / "work" / "01" / "pruned")
    for _ in range(2):  # the second time, there is a list of steps
        doubling = Doubling((1, "before"))
        with pytest.raises(Stop):
            run(settings, source, tmp_path, listed, recovery=Recovery("other", doubling))
        assert doubling.seen == [N_LAYERS - 1]


def test_fewer_steps_than_were_done_begin_where_a_model_is(
    source: Checkpoint, setting: Setting, tmp_path: Path
) -> None:
    settings, listed = stage(n_remove=3, recovery=Optimisation()), utterances(setting.references)
    with pytest.raises(Stop):
        run(settings, source, tmp_path, listed, recovery=Recovery("", Doubling((2, "after"))))
    made = run(stage(recovery=Optimisation()), source, tmp_path, listed, recovery=Recovery("", Doubling()))
    assert len(made.lineage["removed"]) == 2
    assert models(tmp_path / "work") == []


def test_models_that_were_all_kept_are_gone_over_and_deleted(
    source: Checkpoint, setting: Setting, wanted: list[Round], tmp_path: Path
) -> None:
    """Older versions kept every model, and no list of steps."""
    settings, listed = stage(recovery=Optimisation()), utterances(setting.references)
    with pytest.raises(Stop):
        run(settings, source, tmp_path, listed, recovery=Recovery("", Doubling((1, "after"))))
    (tmp_path / "work" / STEPS_FILE).unlink()
    made = run(settings, source, tmp_path, listed, recovery=Recovery("", Doubling()))
    assert made.lineage["removed"] == [LAYERS[one.removed] for one in wanted]
    shutil.copytree(made.path, tmp_path / "work" / "02" / "recovered")
    run(settings, source, tmp_path, listed, recovery=Recovery("", Doubling()))
    assert models(tmp_path / "work") == []
