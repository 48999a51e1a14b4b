"""Scores of the pocket model by stratum: BLEU and chrF with signatures and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from rich.progress import Progress

from compress.pocket import features
from compress.pocket.corpus import HUMAN_VOICE, Clip
from compress.prompt import LANGUAGES, translation
from compress.score import corpus_scores
from compress.translate import translate

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

_MAX_NEW_TOKENS: Final = 120


@dataclass(frozen=True)
class Score:
    """One corpus score of one stratum, language and metric, under the names that lineage and card have for it.

    Attributes:
        stratum: domain and voices, such as "daily, seen voices".
        language: target language code.
        metric: BLEU, chrF++ (German) or chrF (Chinese).
        value: the score, 0 to 100.
        low, high: 95 % bootstrap interval.
        n_clips: clips scored.
        signature: sacreBLEU's, without which a score means nothing.
    """

    stratum: str
    language: str
    metric: str
    value: float
    low: float
    high: float
    n_clips: int
    signature: str

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def stratum(clip: Clip) -> str:
    """The name of the group a clip is reported in."""
    if not clip.en:
        return "no speech"
    if clip.voice == HUMAN_VOICE:
        return f"{clip.domain}, human recordings"
    return f"{clip.domain}, {'held-out' if clip.held_out_voice else 'seen'} voices"


def translate_clips(
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    clips: Sequence[Clip],
    language: str,
    directory: Path,
    progress: Progress,
) -> list[str]:
    """Greedy translations of clips whose features are cached, in their order."""
    task = progress.add_task(f"translating into {LANGUAGES[language].name}", total=len(clips))
    audio = [torch.from_numpy(features.load(clip, directory)).to(model.device, model.dtype) for clip in clips]
    return translate(
        model, processor, audio, translation(language), _MAX_NEW_TOKENS, lambda n: progress.advance(task, n)
    )


def score(clips: Sequence[Clip], hypotheses: Sequence[str], language: str) -> list[Score]:
    """Corpus scores per stratum, in the order in which the strata appear."""
    found: list[Score] = []
    for name in dict.fromkeys(stratum(clip) for clip in clips if clip.en):
        chosen = [i for i, clip in enumerate(clips) if stratum(clip) == name]
        outputs = [hypotheses[i] for i in chosen]
        references = [str(getattr(clips[i], language)) for i in chosen]
        found += [
            Score(
                stratum=name,
                language=language,
                metric=one.metric,
                value=round(one.value, 2),
                low=round(one.low, 2),
                high=round(one.high, 2),
                n_clips=one.n,
                signature=one.signature,
            )
            for one in corpus_scores(outputs, references, language, clips[chosen[0]].split)
        ]
    return found


def invented_words(clips: Sequence[Clip], hypotheses: Sequence[str]) -> tuple[int, int, float]:
    """How clips without speech fare: clips, clips with any output, mean characters of output."""
    outputs = [text for clip, text in zip(clips, hypotheses, strict=True) if not clip.en]
    spoken = [text for text in outputs if text]
    return len(outputs), len(spoken), sum(map(len, outputs)) / max(1, len(outputs))
