"""From examples to padded batches, with the paper's loss mask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch.utils.data import Dataset

from compress import decoding
from compress.clips import Clip, Clips, named
from compress.prompt import END_OF_TURN, Prompt

if TYPE_CHECKING:
    from transformers import Qwen2AudioProcessor

    from compress.dataset import Audio, Utterance

IGNORED: Final = -100
_ASSISTANT: Final = "<|im_start|>assistant"
# oneDNN compiles a kernel per matrix shape and keeps a thousand of them: lengths are rounded up, so that few occur
_LENGTH_STEP: Final = 32
# a token of the two target languages has about so many bytes of UTF-8
_BYTES_PER_TOKEN: Final = 4


@dataclass(frozen=True)
class TrainingExample:
    """A clip and what the model is to write for it."""

    id: str
    audio: Audio
    target: str


def training_examples(utterances: Iterable[Utterance]) -> list[TrainingExample]:
    """Utterances, to be learnt with their reference translations."""
    return [TrainingExample(one.id, one.audio, one.translation) for one in utterances]


@dataclass(frozen=True)
class TrainingSet:
    """What a stage trains on, as it is handed to the training loop.

    Attributes:
        examples: one may be there more than once.
        processor: tokenizer and feature extractor.
        prompt: how the model is asked.
        cache: directory of prepared sounds; may serve several stages.
    """

    examples: Sequence[TrainingExample]
    processor: Qwen2AudioProcessor
    prompt: Prompt
    cache: Path

    def fingerprint(self) -> str:
        """Changes with every id, sound, target, their order, and the prompt.

        Raises:
            RecipeError: a sound cannot be read.
        """
        digest = hashlib.sha256(repr(self.prompt).encode())
        for example in self.examples:
            with named(example):
                digest.update(repr((example.id, example.audio.key, example.target)).encode())
        return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Item:
    """An example on its way into a batch.

    Attributes:
        clip: samples, shape (n_samples,), or a frozen tower's output, shape (n_audio_tokens, d_model).
        target: what the model is to write.
        carries_loss: false for an example that only fills a place.
    """

    clip: Clip
    target: str
    carries_loss: bool = True


@dataclass(frozen=True)
class Examples(Dataset[Item]):
    """Examples whose sounds are prepared.

    Attributes:
        examples: by number.
        clips: the sounds of all of them.
    """

    examples: Sequence[TrainingExample]
    clips: Clips

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Item:
        """The example of that number; -1 - number asks for it without its loss."""
        example = self.examples[index if index >= 0 else -1 - index]
        return Item(self.clips.load(example.audio), example.target, carries_loss=index >= 0)

    def lengths(self) -> list[int]:
        """About how many tokens each example has: near enough to batch those of similar length."""
        sounds = {example.audio.key: example.audio for example in self.examples}
        n_audio = {key: self.clips.n_tokens(audio) for key, audio in sounds.items()}
        return [
            n_audio[example.audio.key] + len(example.target.encode()) // _BYTES_PER_TOKEN for example in self.examples
        ]


@dataclass(frozen=True)
class Collator:
    """Lays items out as one right-padded batch.

        prompt.before │ audio │ prompt.after │ target <|im_end|> newline

    Everything up to and including `<|im_start|>assistant` is masked; the newline after it and all that follows carry
    loss.  A prompt without an assistant's turn is masked whole.  Prompt and target are tokenised apart, because that
    is how the model meets them when it translates.

    Attributes:
        processor: tokenizer and feature extractor.
        prompt: how the model is asked.
    """

    processor: Qwen2AudioProcessor
    prompt: Prompt

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """Makes a batch.

        Returns:
            `input_ids`, `attention_mask` and `labels` (those of transformers: the token itself where it carries
            loss, else `IGNORED`), shape (batch, length), and either `features`, the encoder's output of all clips one
            after the other, shape (n_audio_tokens, d_model), or `mel`, shape (batch, n_mels, frames), and `n_frames`,
            how many of them hold audio.
        """
        audio, n_audio_tokens = self._audio([item.clip for item in items])
        rows = [self._row(item, n_audio) for item, n_audio in zip(items, n_audio_tokens, strict=True)]
        width = -(-max(len(ids) for ids, _ in rows) // _LENGTH_STEP) * _LENGTH_STEP
        shape = (len(rows), width)
        input_ids = torch.full(shape, self.processor.tokenizer.pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED, dtype=torch.long)
        for row, (ids, n_masked) in enumerate(rows):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attention_mask[row, : len(ids)] = 1
            labels[row, n_masked : len(ids)] = torch.tensor(ids[n_masked:], dtype=torch.long)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, **audio}

    def _audio(self, clips: list[Clip]) -> tuple[dict[str, Any], list[int]]:
        """What the batch holds of the audio, and how many tokens each clip takes."""
        if clips[0].ndim == 2:
            return {"features": torch.from_numpy(np.concatenate(clips))}, [len(clip) for clip in clips]
        mel = decoding.log_mel(self.processor, clips)
        return (
            {"mel": mel.features, "n_frames": mel.n_frames},
            [decoding.n_audio_tokens(n_frames) for n_frames in mel.n_frames],
        )

    def _row(self, item: Item, n_audio: int) -> tuple[list[int], int]:
        """Token ids, and how many of them are masked."""
        before, after, n_open = self._asked
        # white space around it would change the first token, and what the end of turn is asked after
        answer = [*self._encode(item.target.strip()), *self._encode(f"{END_OF_TURN}\n")]
        ids = [*before, *[self.processor.audio_token_id] * n_audio, *after, *answer]
        return ids, len(ids) - len(answer) - n_open if item.carries_loss else len(ids)

    @cached_property
    def _asked(self) -> tuple[list[int], list[int], int]:
        """Ids before the audio, ids after it, and how many of these already carry loss."""
        opening = self.prompt.after.rpartition(_ASSISTANT)[2] if _ASSISTANT in self.prompt.after else ""
        return self._encode(self.prompt.before), self._encode(self.prompt.after), len(self._encode(opening))

    def _encode(self, text: str) -> list[int]:
        return list(self.processor.tokenizer.encode(text, add_special_tokens=False))
