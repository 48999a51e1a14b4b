"""Sequence-level distillation (Kim and Rush 2016; section 3.2 of the paper): the teacher translates the training audio.

It makes data, not a model: a file with a line a label, in the order in which the teacher wrote them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.progress import Progress

from compress.checkpoint import Checkpoint
from compress.dataset import Utterance
from compress.errors import RecipeError
from compress.recipe import Recipe
from compress.recipe_stages import Distill
from compress.score import sentence_chrf
from compress.training.collate import TrainingExample
from compress.translate import UTTERANCES_PER_BATCH, Translator

LABELS_FILE: Final = "labels.jsonl"
_UTTERANCES_PER_SAVE: Final = 8 * UTTERANCES_PER_BATCH


@dataclass(frozen=True)
class Labels:
    """What the teacher has written.

    Attributes:
        examples: the labels that are kept.
        n_written: utterances translated.
        n_duplicates: labels dropped because the reference says the same.
        n_poor: labels dropped for their quality.
    """

    examples: tuple[TrainingExample, ...]
    n_written: int
    n_duplicates: int
    n_poor: int


def run(
    stage: Distill,
    recipe: Recipe,
    utterances: Sequence[Utterance],
    teacher: Checkpoint,
    work: Path,
    progress: Progress,
    cache: Path,
) -> Labels:
    """Has the teacher translate every utterance once; a run that was killed goes on from the labels in `work`.

    Args:
        stage: which labels are kept.
        recipe: language, prompt, longest translation.
        utterances: the training split.
        teacher: who translates.
        work: this stage's own directory.
        progress: shows utterances done and time left.
        cache: directory of encoded audio, which several stages may share.

    Raises:
        RecipeError: `work` holds another teacher's labels, or a sound cannot be used.
    """
    file = work / LABELS_FILE
    identity = {"teacher": teacher.identity, "prompt": recipe.wording.text, "longest": recipe.max_new_tokens}
    written = _begin(file, identity)
    missing = [one for key, one in {one.audio.key: one for one in utterances}.items() if key not in written]
    if missing:
        _write(file, missing, recipe, teacher, progress, cache)
        written = _begin(file, identity)
    return _select(stage, utterances, written)


def kept(stage: Distill, utterances: Sequence[Utterance], work: Path) -> Labels:
    """The labels of an earlier run, whoever the teacher was.

    Raises:
        RecipeError: `work` does not hold all of them.
    """
    _, written = _read(work / LABELS_FILE)
    n_missing = sum(one.audio.key not in written for one in utterances)
    if n_missing:
        raise RecipeError(
            f"{work} lacks the teacher's translations of {n_missing} of {len(utterances)} utterances: "
            f"run the stage {stage.name} first"
        )
    return _select(stage, utterances, written)


def _write(
    file: Path, missing: Sequence[Utterance], recipe: Recipe, teacher: Checkpoint, progress: Progress, cache: Path
) -> None:
    translator = Translator(teacher, recipe, missing, progress, cache)
    task = progress.add_task("teacher's translations", total=len(missing))
    for start in range(0, len(missing), _UTTERANCES_PER_SAVE):
        part = missing[start : start + _UTTERANCES_PER_SAVE]
        texts = translator.translate(part, lambda n: progress.advance(task, n))
        lines = [
            json.dumps({"id": one.id, "audio": one.audio.key, "text": text}, ensure_ascii=False)
            for one, text in zip(part, texts, strict=True)
        ]
        with file.open("a", encoding="utf-8") as opened:
            opened.write("\n".join(lines) + "\n")
            opened.flush()
            os.fsync(opened.fileno())


def _begin(file: Path, identity: dict[str, object]) -> dict[str, str]:
    """The labels that are there, by sound; the file is ready for more of the same teacher's."""
    before, written = _read(file)
    changed = [name for name in identity if before and before.get(name) != identity[name]]
    if changed:
        changes = ", ".join(f"{name} was {before.get(name)!r}, is {identity[name]!r}" for name in changed)
        raise RecipeError(f"{file} holds another teacher's labels ({changes}): delete it to start anew")
    if not before:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(identity) + "\n", encoding="utf-8")
    elif not (content := file.read_bytes()).endswith(b"\n"):  # a kill has cut a line off
        with file.open("r+b") as opened:
            opened.truncate(content.rfind(b"\n") + 1)
    return written


def _read(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What the labels depend on, and those whose line is whole, by sound; nothing where there is no file."""
    content = file.read_bytes() if file.is_file() else b""
    # not `splitlines`: a label may hold what Unicode, too, calls the end of a line, and JSON leaves as it is
    lines = content.decode("utf-8", errors="replace").split("\n")[:-1]
    if not lines:
        return {}, {}
    head, *entries = [json.loads(line) for line in lines]
    return head, {entry["audio"]: entry["text"] for entry in entries}


def _select(stage: Distill, utterances: Sequence[Utterance], written: dict[str, str]) -> Labels:
    kept = []
    n_duplicates = n_poor = 0
    for one in utterances:
        label = written[one.audio.key]
        if label == one.translation.strip():
            n_duplicates += 1
        elif not label or (stage.min_chrf is not None and sentence_chrf(label, one.translation) < stage.min_chrf):
            n_poor += 1
        else:
            kept.append(TrainingExample(f"{one.id}-distilled", one.audio, label))
    return Labels(tuple(kept), len(utterances), n_duplicates, n_poor)
