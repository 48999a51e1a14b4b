"""Which layers go, what is left of the model and said of it, and that no signal changes any of that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2AudioProcessor

from compress import decoding
from compress.checkpoint import Checkpoint
from compress.errors import KompaktError, RecipeError
from compress.model import decoder_layers, tower_layers
from compress.prompt import translation
from compress.prune import ROUNDS_FILE
from compress.search.greedy import Round
from compress.weights import storage
from tests.compress import babbler, narrow, pruning
from tests.compress.deadly import run_and_die
from tests.compress.pruning import (
    LAYERS,
    N_REMOVE,
    TOWER_LAYERS,
    assert_kept,
    evaluations,
    middle,
    run,
    stage,
    utterances,
)
from tests.compress.search.setting import N_LAYERS, Setting, rounds
from tests.compress.toy_training import Sound


@pytest.fixture(scope="module")
def searched(processor: Qwen2AudioProcessor) -> tuple[Setting, list[Round]]:
    return pruning.searched(processor)


@pytest.fixture(scope="module")
def setting(searched: tuple[Setting, list[Round]]) -> Setting:
    return searched[0]


@pytest.fixture(scope="module")
def wanted(searched: tuple[Setting, list[Round]]) -> list[Round]:
    return searched[1]


@pytest.fixture
def source(setting: Setting, tmp_path: Path) -> Checkpoint:
    return pruning.write(setting, tmp_path / "source")


# --- which layers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["exact", "naive"])
def test_the_search_removes_what_scoring_every_candidate_finds(
    mode: str, source: Checkpoint, setting: Setting, wanted: list[Round], tmp_path: Path
) -> None:
    made = run(stage(mode=mode), source, tmp_path, utterances(setting.references))
    gone = [one.removed for one in wanted]
    assert made.lineage["removed"] == [LAYERS[layer] for layer in gone]
    assert made.lineage["search"] == {"metric": "chrF++", "scores": [one.chosen.score for one in wanted]}
    assert_kept(made, source, [layer for layer in range(N_LAYERS) if layer not in gone])
    written = json.loads((made.path / ROUNDS_FILE).read_text())
    assert [one["removed"] for one in written] == gone
    assert [len(one["evaluations"]) for one in written] == [N_LAYERS, N_LAYERS - 1]
    chosen = next(one for one in written[0]["evaluations"] if one["layer"] == gone[0])
    assert chosen["hypotheses"] == list(wanted[0].chosen.hypotheses)


def test_the_middle_goes_unsearched(source: Checkpoint, setting: Setting, tmp_path: Path) -> None:
    made = run(middle(n_remove=2), source, tmp_path, utterances(setting.references))
    assert_kept(made, source, [0, 3, 4])
    assert (made.lineage["removed"], made.lineage["layers"]) == ([2, 3], [0, 5, 7])
    assert "search" not in made.lineage
    assert json.loads((made.path / ROUNDS_FILE).read_text()) == []
    assert not (tmp_path / "work").exists()


def test_the_layers_that_change_their_input_least(source: Checkpoint, setting: Setting, tmp_path: Path) -> None:
    settings = stage(strategy="block-influence")
    made = run(settings, source, tmp_path, utterances(setting.references))
    change = changes(setting)
    gone = sorted(change, key=change.__getitem__)[:N_REMOVE]
    assert made.lineage["removed"] == [LAYERS[layer] for layer in gone]
    assert_kept(made, source, [layer for layer in range(N_LAYERS) if layer not in gone])


def changes(setting: Setting) -> dict[int, float]:
    """1 - cos between what enters and what leaves each layer, behind the head that all prompts share."""
    prompt = translation("de")
    n_head = len(setting.processor.tokenizer.encode(prompt.before, add_special_tokens=False))
    passed: list[tuple[Tensor, Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda _module, given, made: passed.append((given[0], made)))
        for layer in decoder_layers(setting.model)
    ]
    for clip in setting.audio:
        decoding.Decoding(setting.model, setting.processor, [clip], [prompt], 1)
    for hook in hooks:
        hook.remove()
    found = {}
    for layer in range(N_LAYERS):
        cosines = [
            torch.cosine_similarity(before[0, n_head:], after[0, n_head:], dim=-1).mean()
            for before, after in passed[layer::N_LAYERS]
        ]
        found[layer] = 1 - float(torch.stack(cosines).mean())
    return found


def test_layers_of_the_tower(source: Checkpoint, setting: Setting, tmp_path: Path) -> None:
    settings = stage(part="tower", n_remove=1)
    made = run(settings, source, tmp_path, utterances(setting.references))
    (first,) = rounds(setting.naive("tower"), babbler.N_TOWER_LAYERS, 1)
    left = 1 - first.removed
    assert made.lineage["removed"] == [TOWER_LAYERS[first.removed]]
    assert (made.lineage["tower_layers"], made.lineage["layers"]) == ([TOWER_LAYERS[left]], LAYERS)
    assert_kept(made, source, [left], "tower")
    loaded = made.load_model("cpu", torch.float32)
    assert (len(tower_layers(loaded)), len(decoder_layers(loaded))) == (1, N_LAYERS)


def test_protected_layers_stay(source: Checkpoint, setting: Setting, tmp_path: Path) -> None:
    made = run(stage(n_remove=3, protected=[0, -1]), source, tmp_path, utterances(setting.references))
    assert made.lineage["layers"] == [LAYERS[0], LAYERS[-1]]
    with pytest.raises(RecipeError, match="cannot remove 4 layers: 3 of 5 are candidates"):
        run(stage(n_remove=4, protected=[0, -1]), source, tmp_path / "more", utterances(setting.references))


# --- what is said of it -----------------------------------------------------------------------------------------


def test_layers_keep_their_first_numbers_over_prunings(source: Checkpoint, setting: Setting, tmp_path: Path) -> None:
    listed = utterances(setting.references)
    first = run(middle(), source, tmp_path / "first", listed)
    assert (first.lineage["removed"], first.lineage["layers"]) == ([3], [0, 2, 5, 7])
    second = run(middle(), first, tmp_path / "second", listed)
    assert (second.lineage["removed"], second.lineage["layers"]) == ([2], [0, 5, 7])
    assert_kept(second, source, [0, 3, 4])
    assert [step["source"] for step in second.lineage["history"]] == ["teacher", "out"]


def test_layers_without_a_lineage_are_numbered_as_they_are(
    source: Checkpoint, setting: Setting, tmp_path: Path
) -> None:
    (source.path / "lineage.json").unlink()
    made = run(middle(), Checkpoint.open(source.path), tmp_path, utterances(setting.references))
    assert (made.lineage["removed"], made.lineage["layers"]) == ([2], [0, 1, 3, 4])


def test_weights_are_stored_as_the_sources_are(processor: Qwen2AudioProcessor, tmp_path: Path) -> None:
    source = narrow.checkpoint(processor, tmp_path / "narrow")
    made = run(middle(), source, tmp_path, utterances(["Hallo Welt!"]))
    assert {tensor.dtype for tensor in narrow.tensors(made.path).values()} == {torch.bfloat16}
    assert_kept(made, source, [0, 2])


# --- again ------------------------------------------------------------------------------------------------------


def test_a_finished_result_is_not_made_again(source: Checkpoint, setting: Setting, tmp_path: Path) -> None:
    made = run(stage(), source, tmp_path, utterances(setting.references))
    written = (made.path / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "work")
    (source.path / "model.safetensors").unlink()
    listed = utterances(setting.references)
    assert run(stage(), source, tmp_path, listed).lineage == made.lineage
    assert (made.path / "model.safetensors").stat().st_mtime_ns == written
    assert not (tmp_path / "work").exists()
    assert all(isinstance(one.audio, Sound) and not one.audio.loads for one in listed)


def test_another_search_in_the_same_directory_is_refused(source: Checkpoint, setting: Setting, tmp_path: Path) -> None:
    made = run(stage(), source, tmp_path, utterances(setting.references))
    with pytest.raises(RecipeError, match=r"is of another search \(metric was 'chrF\+\+', is 'chrF'\)"):
        run(stage(metric="chrF"), source, tmp_path, utterances(setting.references))
    with pytest.raises(RecipeError, match=r"is of another search \(data was '\w+', is '\w+'\)"):
        run(stage(), source, tmp_path, utterances(["Etwas anderes", *setting.references[1:]]))
    assert Checkpoint.open(tmp_path / "out").lineage == made.lineage


KILLED_IN_THE_SECOND_ROUND = """
import json, sys
from pathlib import Path
from compress.checkpoint import Checkpoint
from tests.compress import pruning
from tests.compress.deadly import Deadly

source, directory, references = sys.argv[1:]
listed = pruning.utterances(json.loads(references))
# five candidates read two chunks each and are written down, then the next round begins
pruning.run(pruning.stage(), Checkpoint.open(source), Path(directory), listed, Deadly("prune", 12))
"""


def test_a_killed_search_goes_on_and_ends_the_same(
    source: Checkpoint, setting: Setting, wanted: list[Round], tmp_path: Path
) -> None:
    run_and_die(KILLED_IN_THE_SECOND_ROUND, source.path, tmp_path, json.dumps(setting.references))
    assert not (tmp_path / "out").exists()
    before = evaluations(tmp_path)
    assert len(before) == N_LAYERS
    made = run(stage(), source, tmp_path, utterances(setting.references))
    after = evaluations(tmp_path)
    assert after[: len(before)] == before
    assert len(after) == len({(*one["removed"], "then", one["layer"]) for one in after}) == N_LAYERS + N_LAYERS - 1
    gone = [one.removed for one in wanted]
    assert made.lineage["removed"] == [LAYERS[layer] for layer in gone]
    assert made.lineage["search"]["scores"] == [one.chosen.score for one in wanted]
    assert_kept(made, source, [layer for layer in range(N_LAYERS) if layer not in gone])
    assert not any(tmp_path.glob("out.*"))


# --- refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"metric": "COMET", "comet_model": "missing.ckpt"}, "missing.ckpt"),
        ({"strategy": "block-influence", "part": "tower"}, "block influence is the decoder's"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_loaded(
    settings: dict[str, Any], complaint: str, source: Checkpoint, tmp_path: Path
) -> None:
    (source.path / "model.safetensors").unlink()
    with pytest.raises(KompaktError, match=complaint):
        run(stage(**settings), source, tmp_path, utterances(["Hallo Welt!"]))
    assert not any(tmp_path.glob("out*"))


def test_quantised_or_adapted_weights_are_refused(processor: Qwen2AudioProcessor, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")
    source = narrow.checkpoint(processor, tmp_path / "narrow")
    nf4 = storage.Form("all", torch.float32)
    adapted = narrow.adapted(source, tmp_path / "adapted", narrow.stage(), nf4)
    with pytest.raises(RecipeError, match="adapted is quantised or has an adapter: pruning needs plain weights"):
        run(middle(), adapted, tmp_path, utterances(["Hallo Welt!"]))
    storage.rewrite(source, tmp_path / "nf4", nf4)
    with pytest.raises(RecipeError, match="nf4 is quantised or has an adapter"):
        run(middle(), Checkpoint.open(tmp_path / "nf4"), tmp_path, utterances(["Hallo Welt!"]))
