"""Which layers go, what is left of the model and said of it, and that no signal changes any of that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from rich.progress import Progress
from torch import Tensor
from transformers import Qwen2AudioProcessor

from compress import decoding, model, prune, storage
from compress.architectures import Architecture
from compress.checkpoint import Checkpoint
from compress.dataset import Utterance
from compress.errors import KompaktError, RecipeError
from compress.model import decoder_layers, tower_layers
from compress.prompt import translation
from compress.prune import EVALUATIONS_FILE, ROUNDS_FILE
from compress.recipe import Data, Optimisation, Prune, Recipe
from compress.search.bench import encode
from compress.search.greedy import Round
from tests.compress import babbler, narrow
from tests.compress.deadly import run_and_die
from tests.compress.search.setting import LIMIT, N_LAYERS, Setting, babbling, rounds
from tests.compress.toy_training import Sound

N_REMOVE: Final = 2
N_UTTERANCES: Final = 4
# of the model that the source was pruned from
LAYERS: Final = [0, 2, 3, 5, 7]
TOWER_LAYERS: Final = [1, 4]


@pytest.fixture(scope="module")
def searched(processor: Qwen2AudioProcessor) -> tuple[Setting, list[Round]]:
    """A model that says every word by a wide margin, and what scoring every candidate finds in it."""
    clips = [Sound(i).load() for i in range(N_UTTERANCES)]

    def make(seed: int) -> Setting:
        made = babbler.build(processor, seed)
        return Setting(made, processor, encode(made, processor, clips), [""] * len(clips), clips)

    return babbling(make, N_REMOVE)


@pytest.fixture(scope="module")
def setting(searched: tuple[Setting, list[Round]]) -> Setting:
    return searched[0]


@pytest.fixture(scope="module")
def wanted(searched: tuple[Setting, list[Round]]) -> list[Round]:
    """The rounds of the search over the decoder, no layer protected."""
    return searched[1]


@pytest.fixture
def source(setting: Setting, tmp_path: Path) -> Checkpoint:
    """The model on disk, in fp32, so that nothing is rounded on the way."""
    model.save(setting.model, setting.processor, tmp_path / "source")
    lineage = {"name": "teacher", "layers": LAYERS, "tower_layers": TOWER_LAYERS}
    storage.write_lineage(tmp_path / "source", lineage)
    return Checkpoint.open(tmp_path / "source")


def stage(**settings: Any) -> Prune:
    return Prune.model_validate({"stage": "prune", "n_remove": N_REMOVE, "protected": [], **settings})


def middle(**settings: Any) -> Prune:
    return Prune.model_validate({"stage": "prune", "strategy": "middle", "n_remove": 1, **settings})


def utterances(references: Sequence[str]) -> list[Utterance]:
    return [Utterance(f"utterance {i}", Sound(i), reference) for i, reference in enumerate(references)]


def run(
    settings: Prune,
    source: Checkpoint,
    directory: Path,
    listed: Sequence[Utterance],
    progress: Progress | None = None,
    recover: prune.Recover | None = None,
) -> Checkpoint:
    data = Data(source="pocket", domain="talks")
    recipe = Recipe(name="toy", model="toy", language="de", data=data, stages=(settings,), max_new_tokens=LIMIT)
    shown = progress or Progress(disable=True)
    return prune.run(settings, recipe, listed, source, directory / "out", directory / "work", shown, recover)


def evaluations(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "work" / EVALUATIONS_FILE).read_text().split("\n")
    return [json.loads(line) for line in lines[1:-1]]


def assert_kept(made: Checkpoint, source: Checkpoint, kept: list[int], part: str = "decoder") -> None:
    """Weights are the source's to the bit: of one part those of some layers, of the others all."""
    before = {"decoder": "language_model.model.layers.", "tower": "audio_tower.layers."}[part]
    found, whole = narrow.tensors(made.path), narrow.tensors(source.path)
    expected: dict[str, Tensor] = {}
    for name, tensor in whole.items():
        number, _, rest = name.removeprefix(before).partition(".")
        if not name.startswith(before):
            expected[name] = tensor
        elif int(number) in kept:
            expected[f"{before}{kept.index(int(number))}.{rest}"] = tensor
    narrow.assert_same_bits(found, expected)


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


# --- recovery ---------------------------------------------------------------------------------------------------


@dataclass
class Doubling:
    """Stands for fine-tuning: doubles every score, which changes weights and no translation.

    Attributes:
        seen: decoder layers of each model that it was given.
    """

    seen: list[int] = field(default_factory=list)

    def __call__(self, source: Checkpoint, out: Path, work: Path) -> Checkpoint:
        self.seen.append(Architecture.read(source.path).n_layers)
        network = source.load_model("cpu", torch.float32)
        network.lm_head.weight.data *= 2
        temporary = storage.begin(out)
        model.save(network, source.load_processor(), temporary)
        storage.write_lineage(temporary, source.descend(out.name, {"stage": "doubling"}))
        return storage.finish(temporary, out)


def test_recovery_follows_every_removal(
    source: Checkpoint, setting: Setting, wanted: list[Round], tmp_path: Path
) -> None:
    doubling = Doubling()
    settings = stage(recovery=Optimisation())
    made = run(settings, source, tmp_path, utterances(setting.references), recover=doubling)
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
    made = run(settings, source, tmp_path, utterances(setting.references), recover=Doubling())
    first, second = json.loads((made.path / ROUNDS_FILE).read_text())
    gone = [one.removed for one in wanted]
    assert (first["before"], first["removed"]) == ([], gone[0])
    assert (second["before"], second["removed"]) == ([gone[0]], gone[1])
    left = [layer for layer in range(N_LAYERS) if layer != gone[0]]
    assert [one["layer"] for one in second["evaluations"]] == left


def test_a_protected_layer_is_the_same_one_in_every_round(source: Checkpoint, setting: Setting, tmp_path: Path) -> None:
    settings = stage(n_remove=N_LAYERS - 1, protected=[1], recovery=Optimisation())
    made = run(settings, source, tmp_path, utterances(setting.references), recover=Doubling())
    assert made.lineage["layers"] == [LAYERS[1]]


def test_too_many_removals_are_refused_before_any_recovery(
    source: Checkpoint, setting: Setting, tmp_path: Path
) -> None:
    doubling = Doubling()
    settings = stage(n_remove=5, protected=[0], recovery=Optimisation())
    with pytest.raises(RecipeError, match="cannot remove 5 layers: 4 of 5 are candidates"):
        run(settings, source, tmp_path, utterances(setting.references), recover=doubling)
    assert doubling.seen == []
    with pytest.raises(RecipeError, match="prune asks for recovery: it needs training data"):
        run(stage(recovery=Optimisation()), source, tmp_path, utterances(setting.references))


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


KILLED_IN_THE_FIRST_ROUND = """
import json, sys
from pathlib import Path
from compress.checkpoint import Checkpoint
from tests.compress import test_prune
from tests.compress.deadly import Deadly

source, directory, references = sys.argv[1:]
listed = test_prune.utterances(json.loads(references))
# five candidates read the first of two chunks, then the leader finishes, and is written down
test_prune.run(test_prune.stage(), Checkpoint.open(source), Path(directory), listed, Deadly("prune", 7))
"""


def test_a_killed_search_goes_on_and_ends_the_same(
    source: Checkpoint, setting: Setting, wanted: list[Round], tmp_path: Path
) -> None:
    run_and_die(KILLED_IN_THE_FIRST_ROUND, source.path, tmp_path, json.dumps(setting.references))
    assert not (tmp_path / "out").exists()
    before = evaluations(tmp_path)
    assert 0 < len(before) < N_LAYERS + N_LAYERS - 1
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
