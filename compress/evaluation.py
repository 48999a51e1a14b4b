"""How well a checkpoint translates one split: hypotheses and scores, kept in a file, made once.

COMET, if the recipe asks for it, scores hypotheses that are there already, and is kept with what it depends on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from compress import comet, comet_scores, score
from compress.checkpoint import Checkpoint
from compress.dataset import Utterance
from compress.recipe import Recipe, Split
from compress.score import Score
from compress.translate import Translator, fingerprint
from compress.weights import storage


@dataclass(frozen=True)
class Evaluation:
    """Translations of a split and their scores.

    Attributes:
        split: which.
        scores: over all of it, and over each group where there are several.
        hypotheses: by utterance id.
    """

    split: Split
    scores: tuple[Score, ...]
    hypotheses: dict[str, str]

    def overall(self, metric: str) -> Score:
        """The score over the whole split."""
        return next(one for one in self.scores if one.metric == metric and not one.group)


def evaluate(
    checkpoint: Checkpoint,
    recipe: Recipe,
    utterances: Sequence[Utterance],
    split: Split,
    file: Path,
    progress: Progress,
    cache: Path,
    comet_environment: Path = comet.ENVIRONMENT,
) -> Evaluation:
    """Translates and scores, or reads what an earlier run has found.

    Scores by COMET that an earlier run has asked for stay, unless the recipe asks for another model's.

    Args:
        checkpoint: what translates.
        recipe: language, prompt, longest translation, COMET's model.
        utterances: of the split.
        split: its name.
        file: where the result is kept.
        progress: shows utterances done and time left.
        cache: directory of encoded audio, which several stages may share.
        comet_environment: where COMET is installed.

    Raises:
        RecipeError: a sound cannot be used; COMET is asked for, and there is none, or transcripts are missing.
        CheckpointError: no such model of COMET, or it failed.
    """
    identity = storage.digest(checkpoint.identity, fingerprint(recipe, utterances))
    content = _read(file, identity)
    if content is None:
        texts = _translations(checkpoint, recipe, utterances, progress, cache)
        content = {
            "of": identity,
            "paper_parity": recipe.data.paper_parity,
            "scores": [one.as_json() for one in _scores(texts, utterances, recipe.language, split)],
            "hypotheses": dict(zip((one.id for one in utterances), texts, strict=True)),
        }
        _write(file, content)  # whatever becomes of COMET
    judged = _judged(content, recipe, utterances, split, comet_environment)
    if judged != content:
        _write(file, judged)
    return Evaluation(split, tuple(Score(**one) for one in judged["scores"]), judged["hypotheses"])


def _read(file: Path, identity: str) -> dict[str, Any] | None:
    """What the file says of just this; None where it says nothing."""
    if not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content if content["of"] == identity else None


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(file)


def _translations(
    checkpoint: Checkpoint, recipe: Recipe, utterances: Sequence[Utterance], progress: Progress, cache: Path
) -> list[str]:
    translator = Translator(checkpoint, recipe, utterances, progress, cache)
    task = progress.add_task(f"{checkpoint.name} translates", total=len(utterances))
    return translator.translate(utterances, lambda n: progress.advance(task, n))


def _scores(texts: Sequence[str], utterances: Sequence[Utterance], language: str, split: Split) -> list[Score]:
    references = [one.translation for one in utterances]
    found = []
    for group, rows in _parts(utterances):
        found += score.corpus_scores(
            [texts[i] for i in rows], [references[i] for i in rows], language, split, group=group
        )
    return found


def _judged(
    content: dict[str, Any], recipe: Recipe, utterances: Sequence[Utterance], split: Split, environment: Path
) -> dict[str, Any]:
    """The content with COMET's scores as the recipe wants them, and never with those of other transcripts."""
    before = content.get("comet", {})
    transcripts = storage.digest([(one.transcript, one.group) for one in utterances])
    wanted = before if before.get("transcripts") == transcripts else {}
    if recipe.comet_model is not None:
        wanted = {"signature": comet.signature_of(recipe.comet_model, environment), "transcripts": transcripts}
    if wanted == before:
        return content
    scores = [one for one in content["scores"] if one["metric"] != "COMET"]
    if recipe.comet_model is not None:
        texts = [content["hypotheses"][one.id] for one in utterances]
        values = _comet(texts, utterances, recipe.comet_model, environment)
        parts = _parts(utterances)
        for group, rows in parts:
            chosen = [values[i] for i in rows]
            found = comet_scores.corpus_score(chosen, wanted["signature"], recipe.language, split, group=group)
            scores.append(found.as_json())
        order = [group for group, _ in parts]
        scores.sort(key=lambda one: order.index(one["group"]))
    return content | {"scores": scores, "comet": wanted}


def _comet(texts: Sequence[str], utterances: Sequence[Utterance], model: str, environment: Path) -> list[float]:
    """COMET of every sentence."""
    sources, references = [one.transcript for one in utterances], [one.translation for one in utterances]
    comet.refuse_untranscribed(sources, "utterances")
    if gpu := torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the translating model has had
    return comet.score(sources, {"": texts}, references, model, environment=environment, gpu=gpu)[""]


def _parts(utterances: Sequence[Utterance]) -> list[tuple[str, list[int]]]:
    """The whole split, without a name, and each group where there are several, with the numbers of their utterances."""
    groups = list(dict.fromkeys(one.group for one in utterances))
    apart = [(group, [i for i, one in enumerate(utterances) if one.group == group]) for group in groups if group]
    return [("", list(range(len(utterances)))), *(apart if len(groups) > 1 else [])]
