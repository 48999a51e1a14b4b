"""Which of the teacher's translations are kept, and that each is made once, whatever happens on the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import sacrebleu
from rich.progress import Progress
from transformers import Qwen2AudioProcessor

from compress import distill, model
from compress.checkpoint import Checkpoint
from compress.dataset import Utterance
from compress.distill import LABELS_FILE, Labels
from compress.errors import RecipeError
from compress.recipe import Data, Recipe
from compress.recipe_stages import Distill
from compress.weights import storage
from tests.compress import babbler
from tests.compress.deadly import run_and_die
from tests.compress.toy_training import Sound

# one more than are saved at a time
N_MANY: Final = 257


@pytest.fixture(scope="module")
def teacher(processor: Qwen2AudioProcessor, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    directory = tmp_path_factory.mktemp("teacher") / "teacher"
    model.save(babbler.build(processor, 0), processor, directory)
    storage.write_lineage(directory, {"name": "teacher"})
    return Checkpoint.open(directory)


def utterances(n: int) -> list[Utterance]:
    return [Utterance(f"utterance {i}", Sound(i), f"Satz {i}") for i in range(n)]


def run(
    teacher: Checkpoint,
    directory: Path,
    listed: Sequence[Utterance],
    progress: Progress | None = None,
    *,
    min_chrf: float | None = None,
    **changes: Any,
) -> Labels:
    stage = Distill(teacher="finetune", min_chrf=min_chrf)
    data = Data(source="pocket", domain="talks")
    recipe = Recipe(name="toy", model="toy", language="de", data=data, stages=(), max_new_tokens=16)
    shown = progress or Progress(disable=True)
    changed = recipe.model_copy(update=changes)
    return distill.run(stage, changed, listed, teacher, directory, shown, directory / "cache")


def lines(directory: Path) -> list[dict[str, Any]]:
    """The head, and a line a label."""
    return [json.loads(line) for line in (directory / LABELS_FILE).read_text().split("\n")[:-1]]


def rewrite(directory: Path, content: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in content)
    (directory / LABELS_FILE).write_text(text)


# --- which are kept ---------------------------------------------------------------------------------------------


def test_equal_poor_and_empty_labels_are_dropped_and_counted(teacher: Checkpoint, tmp_path: Path) -> None:
    listed = utterances(16)
    run(teacher, tmp_path, listed)
    head, *labels = lines(tmp_path)
    assert [label["id"] for label in labels] == [one.id for one in listed]
    said = {label["id"]: label["text"] for label in labels}
    talkative = [one for one in listed if len(said[one.id]) > 12]
    assert len(talkative) >= 4, said
    equal, poor, good, empty = talkative[:4]
    references = {equal.id: f" {said[equal.id]}\n", poor.id: "0123 4567", good.id: f"{said[good.id]} ja", empty.id: "x"}
    labels = [label | {"text": ""} if label["id"] == empty.id else label for label in labels]
    rewrite(tmp_path, [head, *labels])
    chosen = [replace(one, translation=references[one.id]) for one in (equal, poor, good, empty)]

    found = run(teacher, tmp_path, chosen, min_chrf=50)
    assert (found.n_written, found.n_duplicates, found.n_poor) == (4, 1, 2)
    (kept,) = found.examples
    assert (kept.id, kept.audio, kept.target) == (f"{good.id}-distilled", good.audio, said[good.id])
    below, above = (
        sacrebleu.sentence_chrf(said[one.id], [references[one.id]], word_order=0).score for one in (poor, good)
    )
    assert below < 50 < above

    unchecked = run(teacher, tmp_path, chosen)
    assert (unchecked.n_written, unchecked.n_duplicates, unchecked.n_poor) == (4, 1, 1)
    assert [one.target for one in unchecked.examples] == [said[poor.id], said[good.id]]


def test_labels_are_asked_for_once(teacher: Checkpoint, tmp_path: Path) -> None:
    first = run(teacher, tmp_path, utterances(3))
    written = (tmp_path / LABELS_FILE).stat().st_mtime_ns
    again = utterances(3)
    assert run(teacher, tmp_path, again) == first
    assert (tmp_path / LABELS_FILE).stat().st_mtime_ns == written
    assert all(isinstance(one.audio, Sound) and not one.audio.loads for one in again)


def test_another_sound_of_the_same_id_is_translated_anew(teacher: Checkpoint, tmp_path: Path) -> None:
    listed = utterances(2)
    run(teacher, tmp_path, listed)
    changed = [listed[0], replace(listed[1], audio=Sound(9))]
    run(teacher, tmp_path, changed)
    assert [(line["id"], line["audio"]) for line in lines(tmp_path)[1:]] == [
        ("utterance 0", "sound 0"),
        ("utterance 1", "sound 1"),
        ("utterance 1", "sound 9"),
    ]


def test_a_label_may_hold_any_character(teacher: Checkpoint, tmp_path: Path) -> None:
    listed = utterances(2)
    run(teacher, tmp_path, listed)
    head, first, second = lines(tmp_path)
    odd = "Guten\u2028Tag\u0085 龘"
    rewrite(tmp_path, [head, first | {"text": odd}, second])
    assert run(teacher, tmp_path, listed).examples[0].target == odd


def test_earlier_labels_serve_without_their_teacher(teacher: Checkpoint, tmp_path: Path) -> None:
    stage = Distill(teacher="finetune")
    with pytest.raises(RecipeError, match="translations of 2 of 2 utterances: run the stage distill first"):
        distill.kept(stage, utterances(2), tmp_path)
    made = run(teacher, tmp_path, utterances(2))
    assert distill.kept(stage, utterances(2), tmp_path) == made
    with pytest.raises(RecipeError, match="translations of 1 of 3 utterances"):
        distill.kept(stage, utterances(3), tmp_path)


# --- another teacher --------------------------------------------------------------------------------------------


def test_another_teachers_labels_are_refused(teacher: Checkpoint, tmp_path: Path) -> None:
    run(teacher, tmp_path, utterances(2))
    before = (tmp_path / LABELS_FILE).read_bytes()
    other = replace(teacher, name="other", lineage={"name": "other"})
    with pytest.raises(RecipeError, match=r"holds another teacher's labels \(teacher was '\w+', is '\w+'\)"):
        run(other, tmp_path, utterances(2))
    with pytest.raises(RecipeError, match="longest was 16, is 8"):
        run(teacher, tmp_path, utterances(2), max_new_tokens=8)
    with pytest.raises(RecipeError, match=r"prompt was '.*assistant.*', is '.*German:'"):
        run(teacher, tmp_path, utterances(2), prompt="base")
    assert (tmp_path / LABELS_FILE).read_bytes() == before


# --- killed -----------------------------------------------------------------------------------------------------


def test_a_line_that_was_cut_off_is_written_again(teacher: Checkpoint, tmp_path: Path) -> None:
    whole = run(teacher, tmp_path, utterances(3))
    file = tmp_path / LABELS_FILE
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    assert run(teacher, tmp_path, utterances(3)) == whole
    assert file.read_bytes() == content


@pytest.mark.parametrize("left", [b"", b'{"teacher": "01234'])
def test_a_file_without_a_whole_line_is_begun_anew(left: bytes, teacher: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / LABELS_FILE).write_bytes(left)
    assert run(teacher, tmp_path, utterances(2)).n_written == 2
    assert len(lines(tmp_path)) == 3


KILLED_BEFORE_THE_LAST_LABEL = """
import sys
from pathlib import Path
from compress.checkpoint import Checkpoint
from tests.compress import test_distill
from tests.compress.deadly import Deadly

teacher, directory = map(Path, sys.argv[1:])
# eight batches are a save
listed = test_distill.utterances(test_distill.N_MANY)
test_distill.run(Checkpoint.open(teacher), directory, listed, Deadly("teacher's translations", 9))
"""


def test_a_killed_run_goes_on_and_ends_the_same(teacher: Checkpoint, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    wanted = run(teacher, whole, utterances(N_MANY))
    run_and_die(KILLED_BEFORE_THE_LAST_LABEL, teacher.path, killed)
    assert len(lines(killed)) == N_MANY  # one of them is the head
    listed = utterances(N_MANY)
    assert run(teacher, killed, listed) == wanted
    assert (killed / LABELS_FILE).read_bytes() == (whole / LABELS_FILE).read_bytes()
    # nor is any sound encoded twice
    assert all(isinstance(one.audio, Sound) and not one.audio.loads for one in listed)
