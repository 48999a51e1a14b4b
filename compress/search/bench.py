"""A model and the search split that it translates: what every way of scoring candidates works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compress import decoding
from compress.audio import Samples
from compress.prompt import Prompt
from compress.translate import translate

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor


@dataclass(frozen=True)
class Bench:
    """What is translated, by whom, and what it should become.

    Attributes:
        model: the whole model; fp32 where scores have to be those of decoding one by one.
        processor: its processor.
        prompt: how it is asked.
        max_new_tokens: a translation ends after this many tokens at the latest.
        clips: the search split's audio, shape (n_samples,) each, at 16 kHz.
        audio: `clips` encoded, shape (n_audio_tokens, d_model) each.
        references: translations of the clips.
        sources: what is said in them, in English; empty where nobody knows.
        language: their language.
        advance: told how many candidates' utterances are done.
    """

    model: Qwen2AudioForConditionalGeneration
    processor: Qwen2AudioProcessor
    prompt: Prompt
    max_new_tokens: int
    clips: Sequence[Samples]
    audio: Sequence[Tensor]
    references: Sequence[str]
    sources: Sequence[str]
    language: str
    advance: Callable[[int], None]

    def translations(self) -> list[str]:
        """The model's own, as it is now."""
        return translate(self.model, self.processor, self.audio, self.prompt, self.max_new_tokens)


def encode(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, clips: Sequence[Samples]
) -> list[Tensor]:
    """Encoder outputs of each clip alone, shape (n_audio_tokens, d_model)."""
    with torch.inference_mode():
        return [decoding.encode(model, decoding.log_mel(processor, [clip]))[0] for clip in clips]
