"""Several targets of one clip in one sequence: the audio is read once, each target sees it alone.

    prefix and audio │ instruction 1, target 1 │ instruction 2, target 2 │ …

A branch attends to the prefix and to itself, never to its neighbours, and its positions go on from the
prefix: the model computes exactly what it would for each target in a sequence of its own, in half the
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration

IGNORED: Final = -100
# The padding token, which no answer holds, is CTC's blank.
BLANK: Final = 0
# oneDNN compiles a kernel per matrix shape and keeps a thousand of them: shapes are rounded up, so that few occur.
_LENGTH_STEP: Final = 32
_ROWS_STEP: Final = 256


@dataclass(frozen=True)
class Example:
    """A clip and what is asked of it.

    Attributes:
        features: encoder output, shape (n_audio_tokens, d_model).
        before: token ids in front of the audio.
        branches: per target, the token ids of instruction and of answer (end of turn included).
        transcript: token ids of the English words, for the alignment loss.
    """

    features: NDArray[np.float16]
    before: list[int]
    branches: list[tuple[list[int], list[int]]]
    transcript: list[int]

    @property
    def n_tokens(self) -> int:
        """Length of the packed sequence: prefix, audio and all branches."""
        return len(self.before) + len(self.features) + sum(len(ask) + len(answer) for ask, answer in self.branches)


@dataclass(frozen=True)
class PackedBatch:
    """Right-padded packed sequences of shape (batch, length).

    Attributes:
        ids: token ids; at audio positions anything.
        is_audio: where audio embeddings go, in reading order of `features`.
        features: encoder outputs of all clips one after the other, then zeros, shape (n, d_model).
        positions: position ids, continuing from the prefix in every branch.
        segments: 0 for prefix and audio, 1… for branches, -1 for padding.
        labels: the next token where an answer is predicted, `IGNORED` elsewhere.
        transcripts: token ids of all clips' English words one after the other.
        n_transcript: how many of them each clip has, shape (batch,).
    """

    ids: Tensor
    is_audio: Tensor
    features: Tensor
    positions: Tensor
    segments: Tensor
    labels: Tensor
    transcripts: Tensor
    n_transcript: Tensor

    def attention(self, dtype: torch.dtype) -> Tensor:
        """Additive attention mask, shape (batch, 1, length, length)."""
        length, device = self.ids.shape[1], self.ids.device
        key, query = self.segments[:, None, :], self.segments[:, :, None]
        visible = ((key == 0) | (key == query)) & torch.ones(length, length, dtype=torch.bool, device=device).tril()
        # A padding row sees itself, so that its softmax is defined.
        visible |= torch.eye(length, dtype=torch.bool, device=device)
        mask = torch.zeros(visible.shape, dtype=dtype, device=device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def pack(examples: Sequence[Example]) -> PackedBatch:
    """Lays examples out as one right-padded batch."""
    shape = (len(examples), _round_up(max(example.n_tokens for example in examples), _LENGTH_STEP))
    ids, positions = (np.zeros(shape, np.int64) for _ in range(2))
    segments, labels = np.full(shape, -1, np.int64), np.full(shape, IGNORED, np.int64)
    is_audio = np.zeros(shape, bool)
    for row, example in enumerate(examples):
        n_before = len(example.before)
        n_prefix = n_before + len(example.features)
        ids[row, :n_before] = example.before
        is_audio[row, n_before:n_prefix] = True
        positions[row, :n_prefix] = np.arange(n_prefix)
        segments[row, :n_prefix] = 0
        start = n_prefix
        for branch, (ask, answer) in enumerate(example.branches, 1):
            end = start + len(ask) + len(answer)
            ids[row, start:end] = ask + answer
            positions[row, start:end] = np.arange(n_prefix, n_prefix + end - start)
            segments[row, start:end] = branch
            labels[row, start + len(ask) - 1 : end - 1] = answer
            start = end
    return PackedBatch(
        ids=torch.from_numpy(ids),
        is_audio=torch.from_numpy(is_audio),
        features=torch.from_numpy(_concatenate([example.features for example in examples])).float(),
        positions=torch.from_numpy(positions),
        segments=torch.from_numpy(segments),
        labels=torch.from_numpy(labels),
        transcripts=torch.tensor([token for example in examples for token in example.transcript]),
        n_transcript=torch.tensor([len(example.transcript) for example in examples]),
    )


@dataclass(frozen=True)
class Losses:
    """Mean cross-entropy per answer token, and mean CTC loss per transcript token."""

    answers: Tensor
    alignment: Tensor


def losses(model: Qwen2AudioForConditionalGeneration, batch: PackedBatch, ctc_layer: int, dtype: torch.dtype) -> Losses:
    """Losses of a batch; only the answers' positions go through `lm_head`.

    The alignment loss asks the hidden states over the audio, after `ctc_layer` decoder layers, for the
    English words (CTC, Graves et al. 2006, through the same `lm_head`).  It teaches the lower layers to
    listen long before attention alone would find the alignment, and adds no weights.
    """
    decoder = model.model.language_model
    embeddings = model.get_input_embeddings()(batch.ids)
    audio = model.model.multi_modal_projector(batch.features).to(embeddings.dtype)
    embeddings = embeddings.masked_scatter(batch.is_audio[..., None], audio)
    middle: list[Tensor] = []
    hook = decoder.layers[ctc_layer - 1].register_forward_hook(lambda *call: middle.append(call[2]))
    try:
        hidden: Tensor = decoder(
            inputs_embeds=embeddings,
            attention_mask=batch.attention(dtype),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
    finally:
        hook.remove()
    answered, labels = _answered(batch)
    logits = model.lm_head(hidden.flatten(0, 1)[answered])
    return Losses(
        answers=torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED),
        alignment=_ctc(model, middle[0], batch),
    )


def _ctc(model: Qwen2AudioForConditionalGeneration, hidden: Tensor, batch: PackedBatch) -> Tensor:
    n_before = int(batch.is_audio[0].int().argmax())
    n_audio = batch.is_audio.sum(1)
    over_audio = hidden[:, n_before : n_before + _round_up(int(n_audio.max()), _LENGTH_STEP)]
    scores = model.lm_head(model.model.language_model.norm(over_audio)).float().log_softmax(-1)
    total = torch.nn.functional.ctc_loss(
        scores.transpose(0, 1),
        batch.transcripts,
        n_audio,
        batch.n_transcript,
        blank=BLANK,
        reduction="sum",
        zero_infinity=True,
    )
    return total / batch.n_transcript.sum().clamp(min=1)


def _answered(batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Flat positions at which an answer's token is predicted, and those tokens; filled up with ignored ones."""
    flat = batch.labels.flatten()
    positions = (flat != IGNORED).nonzero().flatten()
    labels = flat[positions]
    n_missing = _round_up(len(positions), _ROWS_STEP) - len(positions)
    positions = torch.nn.functional.pad(positions, (0, n_missing))
    return positions, torch.nn.functional.pad(labels, (0, n_missing), value=IGNORED)


def _concatenate(features: list[NDArray[np.float16]]) -> NDArray[np.float16]:
    rows = np.concatenate(features)
    return np.pad(rows, ((0, _round_up(len(rows), _ROWS_STEP) - len(rows)), (0, 0)))


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def batches(lengths: Sequence[int], tokens_per_batch: int, seed: int) -> Iterator[list[int]]:
    """One epoch of example numbers in batches of similar length, in an order that depends on `seed` alone."""
    rng = np.random.default_rng(seed)
    by_width: dict[int, list[int]] = {}
    for index in rng.permutation(len(lengths)):
        by_width.setdefault(_round_up(lengths[index], _LENGTH_STEP), []).append(int(index))
    made: list[list[int]] = []
    for width, members in sorted(by_width.items()):
        n_rows = max(1, tokens_per_batch // width)
        made += [members[start : start + n_rows] for start in range(0, len(members), n_rows)]
    for i in rng.permutation(len(made)):
        yield made[i]
