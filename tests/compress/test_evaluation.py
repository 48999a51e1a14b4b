"""Scores are sacreBLEU's of real translations, and kept until what they depend on changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch
from rich.progress import Progress
from transformers import Qwen2AudioProcessor

from compress import clips, model
from compress.checkpoint import Checkpoint
from compress.comet import ENVIRONMENT
from compress.dataset import Utterance
from compress.errors import CheckpointError, RecipeError
from compress.evaluation import Evaluation, evaluate
from compress.prompt import translation
from compress.recipe import Data, Recipe
from compress.translate import translate
from compress.weights import storage
from tests.compress import babbler, comet_small, comet_stand_in
from tests.compress.comet_small import installed
from tests.compress.toy_training import Sound

N_TOKENS = 16


@pytest.fixture
def source(processor: Qwen2AudioProcessor, tmp_path: Path) -> Checkpoint:
    model.save(babbler.build(processor, 0), processor, tmp_path / "babbler")
    storage.write_lineage(tmp_path / "babbler", {"name": "babbler"})
    return Checkpoint.open(tmp_path / "babbler")


def recipe(**changes: Any) -> Recipe:
    data = Data(source="pocket", domain="talks")
    plain = Recipe(name="toy", model="toy", language="de", data=data, stages=(), max_new_tokens=N_TOKENS)
    return plain.model_copy(update=changes)


def run(
    source: Checkpoint,
    listed: Sequence[Utterance],
    directory: Path,
    chosen: Recipe | None = None,
    comet_environment: Path = ENVIRONMENT,
) -> Evaluation:
    file, cache, progress = directory / "scores.json", directory / "cache", Progress(disable=True)
    return evaluate(source, chosen or recipe(), listed, "report", file, progress, cache, comet_environment)


def utterances(n: int = 6) -> list[Utterance]:
    return [
        Utterance(f"utterance {i}", Sound(i), f"Der Zug {i} fährt heute.", f"Train {i} runs today.") for i in range(n)
    ]


def half_right(found: Evaluation, listed: Sequence[Utterance]) -> list[Utterance]:
    """References of which every other one is what the model says."""
    return [replace(one, translation=found.hypotheses[one.id]) if i % 2 else one for i, one in enumerate(listed)]


def oracle(found: Evaluation, listed: Sequence[Utterance], language: str = "de") -> dict[str, float]:
    hypotheses, references = [found.hypotheses[one.id] for one in listed], [[one.translation for one in listed]]
    if language == "zh":
        bleu = sacrebleu.corpus_bleu(hypotheses, references, tokenize="zh")
        return {"BLEU": bleu.score, "chrF": sacrebleu.corpus_chrf(hypotheses, references).score}
    chrf = sacrebleu.corpus_chrf(hypotheses, references, word_order=2)
    return {"BLEU": sacrebleu.corpus_bleu(hypotheses, references).score, "chrF++": chrf.score}


def values(found: Evaluation, group: str = "") -> dict[str, float]:
    return {str(one.metric): one.value for one in found.scores if one.group == group}


def test_every_utterance_is_translated_as_it_is_alone(source: Checkpoint, tmp_path: Path) -> None:
    found = run(source, utterances(), tmp_path)
    network, processor = source.load_model("cpu", torch.float32), source.load_processor()
    assert list(found.hypotheses) == [one.id for one in utterances()]
    for one in utterances():
        audio = torch.from_numpy(clips.encoded(network, processor, one.audio.load())).float()
        assert [found.hypotheses[one.id]] == translate(network, processor, [audio], translation("de"), N_TOKENS)
    assert len(set(found.hypotheses.values())) > 1


@pytest.mark.parametrize("language", ["de", "zh"])
def test_scores_are_those_of_sacrebleu(language: str, source: Checkpoint, tmp_path: Path) -> None:
    chosen = recipe(language=language)
    listed = half_right(run(source, utterances(), tmp_path, chosen), utterances())
    found = run(source, listed, tmp_path, chosen)
    assert values(found) == pytest.approx(oracle(found, listed, language))
    for one in found.scores:
        assert 0 < one.value < 100
        assert (one.n, one.split, one.language, one.group) == (6, "report", language, "")
        assert one.signature
        assert found.overall(one.metric) == one


def test_groups_are_scored_apart(source: Checkpoint, tmp_path: Path) -> None:
    grouped = [replace(one, group="seen" if i < 4 else "held out") for i, one in enumerate(utterances())]
    listed = half_right(run(source, grouped, tmp_path / "first"), grouped)
    found = run(source, listed, tmp_path)
    assert {one.group for one in found.scores} == {"", "seen", "held out"}
    assert values(found) == pytest.approx(oracle(found, listed))
    assert values(found, "seen") == pytest.approx(oracle(found, listed[:4]))
    assert values(found, "held out") == pytest.approx(oracle(found, listed[4:]))
    assert [one.n for one in found.scores if one.metric == "BLEU"] == [6, 4, 2]
    assert (found.overall("BLEU").group, found.overall("BLEU").n) == ("", 6)


def test_one_group_is_all_there_is(source: Checkpoint, tmp_path: Path) -> None:
    found = run(source, [replace(one, group="daily") for one in utterances(2)], tmp_path)
    assert {one.group for one in found.scores} == {""}


def test_what_was_found_is_kept(source: Checkpoint, tmp_path: Path) -> None:
    first = run(source, utterances(), tmp_path)
    written = (tmp_path / "scores.json").stat().st_mtime_ns
    (source.path / "model.safetensors").unlink()
    again = utterances()
    assert run(source, again, tmp_path) == first
    assert (tmp_path / "scores.json").stat().st_mtime_ns == written
    assert all(isinstance(one.audio, Sound) and not one.audio.loads for one in again)


def test_whatever_changes_is_noticed(source: Checkpoint, tmp_path: Path) -> None:
    listed = utterances(3)

    def of() -> str:
        return str(json.loads((tmp_path / "scores.json").read_text())["of"])

    first = run(source, listed, tmp_path)
    seen = [of()]
    others: list[tuple[Checkpoint, list[Utterance], Recipe]] = [
        (replace(source, lineage={"name": "babbler", "seed": 1}), listed, recipe()),
        (source, [replace(listed[0], translation="Etwas anderes"), *listed[1:]], recipe()),
        (source, [replace(listed[0], audio=Sound(7)), *listed[1:]], recipe()),
        (source, listed[:2], recipe()),
        (source, listed, recipe(language="zh")),
        (source, listed, recipe(prompt="base")),
        (source, listed, recipe(max_new_tokens=3)),
    ]
    for checkpoint, given, chosen in others:
        run(checkpoint, given, tmp_path, chosen)
        seen.append(of())
    assert len(set(seen)) == len(seen)
    assert run(source, listed, tmp_path) == first
    assert of() == seen[0]


@pytest.mark.parametrize("paper_parity", [True, False])
def test_a_result_says_whether_it_was_searched_on(paper_parity: bool, source: Checkpoint, tmp_path: Path) -> None:
    data = Data(source="pocket", domain="talks", paper_parity=paper_parity)
    run(source, utterances(1), tmp_path, recipe(data=data))
    assert json.loads((tmp_path / "scores.json").read_text())["paper_parity"] is paper_parity
    assert [file.name for file in tmp_path.glob("scores*")] == ["scores.json"]


# --- COMET ------------------------------------------------------------------------------------------------------

JUDGE = "someone/judge"


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    return comet_stand_in.install(tmp_path / "environment")


def test_comet_stands_beside_the_others(source: Checkpoint, environment: Path, tmp_path: Path) -> None:
    grouped = [replace(one, group="seen" if i < 4 else "held out") for i, one in enumerate(utterances())]
    listed = half_right(run(source, grouped, tmp_path / "first"), grouped)
    found = run(source, listed, tmp_path, recipe(comet_model=JUDGE), environment)
    each = [comet_stand_in.value(found.hypotheses[one.id], one.translation) for one in listed]
    assert [(one.metric, one.group) for one in found.scores] == [
        (metric, group) for group in ("", "seen", "held out") for metric in ("BLEU", "chrF++", "COMET")
    ]
    for group, values in {"": each, "seen": each[:4], "held out": each[4:]}.items():
        one = next(one for one in found.scores if (one.metric, one.group) == ("COMET", group))
        assert one.value == pytest.approx(sum(values) / len(values))
        assert one.low < one.value < one.high
        assert (one.n, one.split, one.language) == (len(values), "report", "de")
        assert f"|model:{JUDGE}|" in one.signature
    (call,) = comet_stand_in.calls(environment)
    (rows,) = call["rows"]
    assert [(row["src"], row["ref"]) for row in rows] == [(one.transcript, one.translation) for one in listed]


def test_comet_is_added_to_what_is_there_and_stays(source: Checkpoint, environment: Path, tmp_path: Path) -> None:
    plain = run(source, utterances(), tmp_path)
    (source.path / "model.safetensors").unlink()
    again = utterances()
    found = run(source, again, tmp_path, recipe(comet_model=JUDGE), environment)
    assert all(isinstance(one.audio, Sound) and not one.audio.loads for one in again)
    assert found.hypotheses == plain.hypotheses
    assert tuple(one for one in found.scores if one.metric != "COMET") == plain.scores
    written = (tmp_path / "scores.json").stat().st_mtime_ns
    assert run(source, utterances(), tmp_path, recipe(comet_model=JUDGE), environment) == found
    assert run(source, utterances(), tmp_path) == found
    assert (tmp_path / "scores.json").stat().st_mtime_ns == written
    assert len(comet_stand_in.calls(environment)) == 1


def test_another_judge_takes_the_place_of_the_first(source: Checkpoint, environment: Path, tmp_path: Path) -> None:
    run(source, utterances(), tmp_path, recipe(comet_model=JUDGE), environment)
    found = run(source, utterances(), tmp_path, recipe(comet_model="someone/else"), environment)
    (score,) = [one for one in found.scores if one.metric == "COMET"]
    assert "|model:someone/else|" in score.signature
    assert [call["model"] for call in comet_stand_in.calls(environment)] == [JUDGE, "someone/else"]


def test_comet_of_other_transcripts_counts_for_nothing(source: Checkpoint, environment: Path, tmp_path: Path) -> None:
    plain = run(source, utterances(), tmp_path)
    run(source, utterances(), tmp_path, recipe(comet_model=JUDGE), environment)
    first, *others = utterances()
    mended = [replace(first, transcript="The first train."), *others]
    assert run(source, mended, tmp_path) == plain
    run(source, mended, tmp_path, recipe(comet_model=JUDGE), environment)
    last = comet_stand_in.calls(environment)[-1]
    assert last["rows"][0][0]["src"] == "The first train."


def test_a_failure_of_comet_loses_no_translation(source: Checkpoint, environment: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"COMET failed with someone/broken .*: the weights are broken"):
        run(source, utterances(), tmp_path, recipe(comet_model="someone/broken"), environment)
    (source.path / "model.safetensors").unlink()
    assert {one.metric for one in run(source, utterances(), tmp_path).scores} == {"BLEU", "chrF++"}


def test_comet_without_transcripts_or_without_its_environment_is_refused(
    source: Checkpoint, environment: Path, tmp_path: Path
) -> None:
    silent = [replace(one, transcript="") for one in utterances()]
    with pytest.raises(RecipeError, match="COMET needs English transcripts: 6 of 6 utterances have none"):
        run(source, silent, tmp_path, recipe(comet_model=JUDGE), environment)
    with pytest.raises(RecipeError, match="run `make comet`"):
        run(source, silent, tmp_path, recipe(comet_model=JUDGE), tmp_path / "nowhere")


@installed
@pytest.mark.slow
def test_the_real_comet_scores_what_is_there(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plain = run(source, utterances(), tmp_path)
    samples = [{"src": one.transcript, "mt": plain.hypotheses[one.id], "ref": one.translation} for one in utterances()]
    (tmp_path / "comet").mkdir()
    model, expected = comet_small.make(tmp_path / "comet", samples)
    found = run(source, utterances(), tmp_path, recipe(comet_model=str(model)))
    score = found.overall("COMET")
    assert score.value == pytest.approx(sum(expected) / len(expected), abs=0.5)
    assert score.low <= score.value <= score.high
    assert "|model:model.ckpt@" in score.signature
