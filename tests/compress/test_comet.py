"""COMET's command, its answer and its failures; and, where COMET is installed, a small model of the real format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress import comet
from compress.comet import command, explain, find_model, read_scores
from compress.errors import CheckpointError, RecipeError
from compress.recipe_stages import COMET_MODEL
from compress.search.metrics import Comet
from tests.compress import comet_small, comet_stand_in
from tests.compress.comet_small import installed

SOURCES = [
    "Where is the nearest station?",
    "I would like a glass of water.",
    "The train leaves at nine.",
    "The room is much too loud.",
    "Thank you for your attention.",
]
REFERENCES = [
    "Wo ist der nächste Bahnhof?",
    "Ich hätte gern ein Glas Wasser.",
    "Der Zug fährt um neun Uhr ab.",
    "Das Zimmer ist viel zu laut.",
    "Vielen Dank für Ihre Aufmerksamkeit.",
]
HYPOTHESES = {
    "teacher": list(REFERENCES),
    # as long as the sources, though a file of lines would have seven
    "student, pruned/de": ["Wo ist\nder Bahnhof?", "Ein Glas Wasser.\r\n", "", "  Das Zimmer ist laut.", "Guten Tag."],
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Where the files of a COMET model lie; nothing is in them."""
    path = tmp_path / "model" / "checkpoints" / "model.ckpt"
    path.parent.mkdir(parents=True)
    path.touch()
    (tmp_path / "model" / "hparams.yaml").touch()
    return path


# --- what goes in -----------------------------------------------------------------------------------------------


def test_the_command_has_all_systems_in_one_call() -> None:
    parts = command(
        Path("/env"), COMET_MODEL, Path("src"), [Path("0.txt"), Path("1.txt")], Path("ref"), Path("o.json"), gpu=False
    )
    assert " ".join(parts) == (
        "/env/bin/python -I -m comet.cli.score --sources src --translations 0.txt 1.txt --references ref "
        "--model Unbabel/wmt20-comet-da --gpus 0 --num_workers 0 --quiet --only_system --to_json o.json"
    )


def test_a_gpu_is_used_when_asked() -> None:
    parts = command(Path("/env"), COMET_MODEL, Path("s"), [Path("h")], Path("r"), Path("o"), gpu=True)
    assert parts[parts.index("--gpus") + 1] == "1"


def test_no_system_needs_no_comet(tmp_path: Path) -> None:
    assert comet.score(SOURCES, {}, REFERENCES, environment=tmp_path) == {}


def test_lists_of_different_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"sources \(5\) as references \(4\) as translations by student \(5\)"):
        comet.score(SOURCES, {"student": REFERENCES}, REFERENCES[:4], environment=tmp_path)
    with pytest.raises(RecipeError, match="nothing to score"):
        comet.score([], {"student": []}, [], environment=tmp_path)


def test_a_missing_environment_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none in .*: run `make comet`"):
        comet.score(SOURCES, HYPOTHESES, REFERENCES, environment=tmp_path)
    with pytest.raises(RecipeError, match="make comet"):
        comet.signature_of(environment=tmp_path)


@pytest.mark.parametrize("sources", [["Good day.", ""], ["Good day.", " \n"]])
def test_utterances_without_a_transcript_are_counted(sources: list[str]) -> None:
    with pytest.raises(RecipeError, match="COMET needs English transcripts: 1 of 2 utterances to report on have none"):
        comet.refuse_untranscribed(sources, "utterances to report on")
    comet.refuse_untranscribed(sources[:1], "utterances to report on")


# --- models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [COMET_MODEL, "wmt20-comet-da"])
def test_names_go_through(name: str) -> None:
    assert find_model(name) == name


def test_checkpoints_are_found_from_anywhere(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    assert find_model("model.ckpt") == find_model(checkpoint) == str(checkpoint)


def test_a_directory_is_refused_with_the_file_in_it(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a directory: did you mean .*/checkpoints/model\.ckpt\?"):
        find_model(checkpoint.parent.parent)
    with pytest.raises(CheckpointError, match=r"is a directory$"):
        find_model(tmp_path)


def test_a_checkpoint_without_its_kind_is_refused(checkpoint: Path) -> None:
    (checkpoint.parent.parent / "hparams.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"needs .*hparams\.yaml"):
        find_model(checkpoint)


@pytest.mark.parametrize("model", ["missing.ckpt", "a/b/c", "/somewhere/else", "two words"])
def test_what_is_neither_file_nor_name_is_refused(model: str) -> None:
    with pytest.raises(CheckpointError, match=model):
        find_model(model)


def test_a_checkpoint_in_the_home_directory_is_found(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parents[2]))
    assert find_model("~/model/checkpoints/model.ckpt") == str(checkpoint)


def test_a_check_asks_the_hub_for_what_is_named_there(checkpoint: Path, tmp_path: Path) -> None:
    environment = comet_stand_in.install(tmp_path / "environment")
    for model in ("someone/model", "wmt20-comet-da", str(checkpoint)):
        comet.check(model, environment)
    with pytest.raises(CheckpointError, match="COMET could not get someone/missing: there is no such model on the hub"):
        comet.check("someone/missing", environment)
    with pytest.raises(RecipeError, match="run `make comet`"):
        comet.check(COMET_MODEL, tmp_path)


# --- what comes out ---------------------------------------------------------------------------------------------


def answer(*scores: float, file: str = "/tmp/comet-x/0.txt") -> str:
    """As COMET writes it."""
    rows = [{"src": "a", "mt": "b", "ref": "c", "COMET": one} for one in scores]
    return json.dumps({"/tmp/comet-x/1.txt": rows[::-1], file: rows}, ensure_ascii=False, indent=4)


def test_scores_come_times_a_hundred_in_the_order_asked() -> None:
    files = [Path("/tmp/comet-x/0.txt"), Path("/tmp/comet-x/1.txt")]
    assert read_scores(answer(0.5632, -0.444), files, 2) == [
        pytest.approx([56.32, -44.4]),
        pytest.approx([-44.4, 56.32]),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (answer(0.1), "scored 1 of 2 sentences"),
        (answer(0.1, 0.2, file="/tmp/comet-x/9.txt"), "scored 0 of 2 sentences"),
        (answer(0.1, float("nan")), "1 of 2 sentences no number, sentence 2 first"),
    ],
)
def test_an_answer_that_is_not_whole_is_refused(text: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_scores(text, [Path("/tmp/comet-x/0.txt")], 2)


def test_failures_are_told_by_their_exception_alone() -> None:
    stderr = (
        'Seed set to 1\nTraceback (most recent call last):\n  File "x.py", line 1\nOSError: no config.json in x\n\n'
    )
    assert explain("m.ckpt", 1, stderr) == "COMET failed with m.ckpt (exit status 1): OSError: no config.json in x"
    assert explain("m.ckpt", -9, "") == "COMET failed with m.ckpt (exit status -9): it said nothing"
    assert explain("m.ckpt", 2, "usage: …\nerror: what?\n").endswith("(exit status 2): error: what?")


def test_a_model_that_cannot_be_had_is_said_to_be() -> None:
    stderr = "Traceback (most recent call last):\nKeyError: \"Model 'a/b' not supported by COMET.\"\n"
    assert "no such model on the hub" in explain("a/b", 1, stderr)


def test_a_checkpoint_with_code_in_it_is_said_to_be() -> None:
    """Torch's message, shortened, for a checkpoint of Lightning's first years."""
    stderr = (
        "_pickle.UnpicklingError: Weights only load failed. This file can still be loaded\n\tWeightsUnpickler error: "
        "Unsupported global: GLOBAL pytorch_lightning.callbacks.ModelCheckpoint was not an allowed global by default.\n"
    )
    said = explain("m.ckpt", 1, stderr)
    assert "(pytorch_lightning.callbacks.ModelCheckpoint)" in said
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1" in said


# --- the real thing ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[float]]]:
    """A checkpoint, and its scores of the sentences above in 32 bits."""
    samples = [
        {"src": source, "mt": " ".join(hypothesis.split()), "ref": reference}
        for hypotheses in HYPOTHESES.values()
        for source, hypothesis, reference in zip(SOURCES, hypotheses, REFERENCES, strict=True)
    ]
    path, found = comet_small.make(tmp_path_factory.mktemp("comet"), samples)
    scores = iter(found)
    return path, {name: [next(scores) for _ in SOURCES] for name in HYPOTHESES}


@installed
@pytest.mark.slow
def test_a_small_model_scores_as_in_32_bits(
    small_model: tuple[Path, dict[str, list[float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = small_model
    spread = [max(values) - min(values) for values in expected.values()]
    assert min(spread) > 2, "scores that are all alike would test no order"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = comet.score(SOURCES, HYPOTHESES, REFERENCES, path)
    assert list(found) == list(HYPOTHESES)
    for name, values in found.items():
        assert values == pytest.approx(expected[name], abs=0.5)


@installed
@pytest.mark.slow
def test_a_layer_search_goes_by_the_mean(
    small_model: tuple[Path, dict[str, list[float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = small_model
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = Comet(SOURCES, REFERENCES, str(path)).scores(list(HYPOTHESES.values()))
    assert found == pytest.approx([sum(values) / len(values) for values in expected.values()], abs=0.5)


@installed
@pytest.mark.slow
def test_what_is_no_checkpoint_is_told_in_a_line(checkpoint: Path) -> None:
    checkpoint.write_bytes(b"this is no checkpoint")
    (checkpoint.parent.parent / "hparams.yaml").write_text("class_identifier: regression_metric\n")
    with pytest.raises(CheckpointError, match=r"^COMET failed with .*model\.ckpt \(exit status 1\): .*Error"):
        comet.score(SOURCES, HYPOTHESES, REFERENCES, checkpoint)


@installed
def test_the_signature_names_model_and_version(checkpoint: Path) -> None:
    assert comet.signature_of() == (
        "nrefs:1|bs:1000|seed:12345|model:Unbabel/wmt20-comet-da|precision:fp16|version:2.2.7"
    )
    checkpoint.write_bytes(b"x")
    assert "model:model.ckpt@2d711642b726|" in comet.signature_of(checkpoint)


@installed
def test_a_model_that_the_hub_does_not_give_is_refused_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="COMET could not get someone/nothing-at-all"):
        comet.check("someone/nothing-at-all")
