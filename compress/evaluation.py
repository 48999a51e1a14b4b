"""How well a checkpoint translates one split: hypotheses and scores, kept in a file, made once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from compress import score, storage
from compress.checkpoint import Checkpoint
from compress.dataset import Utterance
from compress.recipe import Recipe, Split
from compress.score import Score
from compress.translate import Translator, fingerprint


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
) -> Evaluation:
    """Translates and scores, or reads what an earlier run has found.

    Args:
        checkpoint: what translates.
        recipe: language, prompt, longest translation.
        utterances: of the split.
        split: its name.
        file: where the result is kept.
        progress: shows utterances done and time left.
        cache: directory of encoded audio, which several stages may share.

    Raises:
        RecipeError: a sound cannot be used.
    """
    identity = storage.digest(checkpoint.identity, fingerprint(recipe, utterances))
    if file.is_file():
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["of"] == identity:
            return Evaluation(split, tuple(Score(**one) for one in content["scores"]), content["hypotheses"])
    translator = Translator(checkpoint, recipe, utterances, progress, cache)
    task = progress.add_task(f"{checkpoint.name} translates", total=len(utterances))
    texts = translator.translate(utterances, lambda n: progress.advance(task, n))
    scores = _scores(texts, utterances, recipe.language, split)
    found = Evaluation(split, tuple(scores), dict(zip((one.id for one in utterances), texts, strict=True)))
    content = {
        "of": identity,
        "paper_parity": recipe.data.paper_parity,
        "scores": [one.as_json() for one in scores],
        "hypotheses": found.hypotheses,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(file)
    return found


def _scores(texts: Sequence[str], utterances: Sequence[Utterance], language: str, split: Split) -> list[Score]:
    references = [one.translation for one in utterances]
    found = score.corpus_scores(texts, references, language, split)
    groups = list(dict.fromkeys(one.group for one in utterances))
    for group in groups if len(groups) > 1 else ():
        rows = [i for i, one in enumerate(utterances) if one.group == group]
        found += score.corpus_scores(
            [texts[i] for i in rows], [references[i] for i in rows], language, split, group=group
        )
    return found
