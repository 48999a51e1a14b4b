"""Greedy translation of many utterances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from rich.progress import Progress

from compress import clips, decoding
from compress.checkpoint import Checkpoint
from compress.dataset import Utterance
from compress.recipe import Recipe
from compress.weights import storage

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    from compress.prompt import Prompt

UTTERANCES_PER_BATCH: Final = 32


class Translator:
    """A checkpoint that translates utterances as a recipe says."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe,
        utterances: Sequence[Utterance],
        progress: Progress,
        cache: Path,
    ) -> None:
        """Loads the checkpoint, frozen: so its tower hears every sound once, now, for all stages that share a cache.

        Args:
            checkpoint: what translates.
            recipe: language, prompt, longest translation.
            utterances: all that are going to be translated.
            progress: shows sounds done.
            cache: directory of encoded audio.

        Raises:
            RecipeError: a sound cannot be used.
        """
        self._model = checkpoint.load_for_inference()
        self._processor = checkpoint.load_processor()
        self._recipe = recipe
        self._clips = clips.prepare(self._model, self._processor, utterances, cache, progress)

    def translate(self, utterances: Sequence[Utterance], advance: Callable[[int], None] | None = None) -> list[str]:
        """Translations of some of the utterances, in their order; `advance` is told how many are done."""
        model, longest = self._model, self._recipe.max_new_tokens
        audio = [torch.from_numpy(self._clips.load(one.audio)).to(model.device, model.dtype) for one in utterances]
        return translate(model, self._processor, audio, self._recipe.wording, longest, advance)


def fingerprint(recipe: Recipe, utterances: Sequence[Utterance]) -> str:
    """Changes with what is translated, how it is asked for, and the references."""
    asked = (recipe.language, recipe.prompt, recipe.max_new_tokens)
    return storage.digest(asked, [(one.id, one.audio.key, one.translation) for one in utterances])


def translate(
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    audio: Sequence[Tensor],
    prompt: Prompt,
    max_new_tokens: int,
    advance: Callable[[int], None] | None = None,
) -> list[str]:
    """Translations of encoded utterances, in their order; those of similar length are decoded together.

    Args:
        model: the translator.
        processor: its processor.
        audio: encoder outputs, shape (n_audio_tokens, d_model) each, in the model's dtype.
        prompt: the same for all.
        max_new_tokens: a translation ends after this many tokens at the latest.
        advance: told how many utterances are done.
    """
    by_length = sorted(range(len(audio)), key=lambda i: len(audio[i]))
    texts = [""] * len(audio)
    for start in range(0, len(audio), UTTERANCES_PER_BATCH):
        numbers = by_length[start : start + UTTERANCES_PER_BATCH]
        prompts = [prompt] * len(numbers)
        batch = decoding.Decoding(model, processor, [audio[i] for i in numbers], prompts, max_new_tokens)
        ids: list[list[int]] = [[] for _ in numbers]
        while batch.rows:
            for token in batch.step():
                if token.id is not None:
                    ids[token.row].append(token.id)
        for number, row in zip(numbers, ids, strict=True):
            texts[number] = text_of(processor, row)
        if advance is not None:
            advance(len(numbers))
    return texts


def text_of(processor: Qwen2AudioProcessor, ids: Sequence[int]) -> str:
    """A translation's tokens as text."""
    return str(processor.tokenizer.decode(ids, skip_special_tokens=True)).strip()
