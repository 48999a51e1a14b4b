"""A model and the exam that it sits, which is to translate the search split: what every scorer works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from compress import decoding
from compress.audio import Samples
from compress.prompt import Prompt
from compress.translate import translate

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    from compress.dataset import Utterance


@dataclass(frozen=True)
class Exam:
    """What candidates are to translate, and what it should become.

    Attributes:
        prompt: how they are asked.
        max_new_tokens: a translation ends after this many tokens at the latest.
        clips: the search split's audio, shape (n_samples,) each, at 16 kHz.
        references: translations of the clips.
        sources: what is said in them, in English; empty where nobody knows.
        language: that of the references.
    """

    prompt: Prompt
    max_new_tokens: int
    clips: Sequence[Samples]
    references: Sequence[str]
    sources: Sequence[str]
    language: str

    @classmethod
    def of(cls, utterances: Sequence[Utterance], language: str, prompt: Prompt, max_new_tokens: int) -> Self:
        """Loads the utterances' audio."""
        return cls(
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            clips=[one.audio.load() for one in utterances],
            references=[one.translation for one in utterances],
            sources=[one.transcript for one in utterances],
            language=language,
        )


@dataclass(frozen=True)
class Bench:
    """A model and the exam that it sits.

    Attributes:
        model: the whole model; fp32 where scores have to be those of decoding one by one.
        processor: its processor.
        exam: what is translated.
        audio: the exam's clips encoded, shape (n_audio_tokens, d_model) each.
        advance: told how many candidates' utterances are done.
    """

    model: Qwen2AudioForConditionalGeneration
    processor: Qwen2AudioProcessor
    exam: Exam
    audio: Sequence[Tensor]
    advance: Callable[[int], None]

    def translations(self, audio: Sequence[Tensor] | None = None) -> list[str]:
        """The model's own, as it is now.

        Args:
            audio: the exam's clips encoded anew; as they are on the bench when absent.
        """
        exam, audio = self.exam, self.audio if audio is None else audio
        return translate(self.model, self.processor, audio, exam.prompt, exam.max_new_tokens, self.advance)


def encode(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, clips: Sequence[Samples]
) -> list[Tensor]:
    """Encoder outputs of each clip alone, shape (n_audio_tokens, d_model)."""
    with torch.inference_mode():
        return [decoding.encode(model, decoding.log_mel(processor, [clip]))[0] for clip in clips]
