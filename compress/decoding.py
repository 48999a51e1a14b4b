"""Speech to token ids: the encoder on the frames that hold audio, then batched greedy decoding.

This is the one decoding loop of the product: `compress` drives it over whole data sets, `serve` token
by token.  It differs from `model.generate` in four ways that cost nothing in quality: the encoder
skips the padding up to 30 s, only the last position goes through `lm_head`, finished rows leave
the batch, and new ones may join it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compress.audio import HOP_LENGTH, N_FRAMES, N_SAMPLES, SAMPLE_RATE, WINDOW_S, Samples
from compress.errors import AudioTooLong
from compress.key_values import KeyValues
from compress.prompt import END_OF_TURN, Prompt
from compress.reading import Reading, additive, likeliest, read, run_layers

if TYPE_CHECKING:
    from transformers import Qwen2AudioEncoder, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

# Two convolutions of width 3, the second of stride 2, reach two mel frames past the last valid one.
CONVOLUTION_REACH = 2
# Two audio tokens need so many; anything shorter is heard as followed by silence.
FEWEST_FRAMES = 7


def n_mel_frames(n_samples: int) -> int:
    """Mel frames that hold a clip of so many samples."""
    return max(FEWEST_FRAMES, -(-n_samples // HOP_LENGTH))


def n_audio_tokens(n_frames: int) -> int:
    """How many embeddings the encoder makes of `n_frames` mel frames: stride 2, then pooling by 2."""
    return ((n_frames - 1) // 2 + 1 - 2) // 2 + 1


@dataclass(frozen=True)
class Mel:
    """Log-mel spectrograms of several clips, no longer than the longest needs.

    Attributes:
        features: shape (clips, n_mels, frames), float32; past a clip's end they are those of silence.
        n_frames: mel frames that hold audio, per clip.
    """

    features: Tensor
    n_frames: list[int]


def log_mel(processor: Qwen2AudioProcessor, clips: Sequence[Samples]) -> Mel:
    """Computes the model's own log-mel features, padded only as far as the convolutions look.

    Raises:
        AudioTooLong: a clip is longer than the encoder's window.
    """
    longest = max(len(clip) for clip in clips)
    if longest > N_SAMPLES:
        raise AudioTooLong(f"a clip of {longest / SAMPLE_RATE:.1f} s exceeds the encoder's window of {WINDOW_S} s")
    n_frames = [n_mel_frames(len(clip)) for clip in clips]
    width = min(N_FRAMES, max(n_frames) + CONVOLUTION_REACH)
    extractor = processor.feature_extractor
    # Centred STFT frames see half a window past their centre, so silence is appended before, not after.
    n_samples = min(N_SAMPLES, width * HOP_LENGTH + extractor.n_fft)
    padded = np.zeros((len(clips), n_samples), np.float32)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    features = extractor(
        list(padded), sampling_rate=SAMPLE_RATE, padding="longest", truncation=False, return_tensors="pt"
    ).input_features
    return Mel(features[..., :width], n_frames)


def encode(model: Qwen2AudioForConditionalGeneration, mel: Mel) -> list[Tensor]:
    """Runs the model's audio tower, see `run_tower`."""
    return run_tower(model.model.audio_tower, mel)


def run_tower(tower: Qwen2AudioEncoder, mel: Mel) -> list[Tensor]:
    """Runs an audio tower on the valid frames only.

    Equal to the padded 30 s run on every valid position: convolutions see the same silence, and
    attention never looks past a clip's end.

    Returns:
        One tensor per clip, shape (n_audio_tokens, d_model), before the projector.
    """
    weight = tower.conv1.weight
    features = mel.features.to(weight.device, weight.dtype)
    hidden = torch.nn.functional.gelu(tower.conv1(features))
    hidden = torch.nn.functional.gelu(tower.conv2(hidden)).transpose(1, 2)
    lengths = [(n - 1) // 2 + 1 for n in mel.n_frames]
    hidden = hidden[:, : max(lengths)]
    hidden = hidden + tower.embed_positions.weight[: hidden.shape[1]]
    mask = None
    if min(lengths) != max(lengths):
        valid = torch.arange(hidden.shape[1])[None, :] < torch.tensor(lengths)[:, None]
        mask = additive(valid, hidden.dtype)[:, None, None, :].expand(-1, 1, hidden.shape[1], -1).to(hidden.device)
    for layer in tower.layers:
        hidden = layer(hidden, mask)
    hidden = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
    hidden = tower.layer_norm(hidden)
    return [row[: n_audio_tokens(n)] for row, n in zip(hidden, mel.n_frames, strict=True)]


@dataclass(frozen=True)
class Token:
    """One step of one row: a token of its text, or None where the model ended it.

    `last` is also true for the token at which the length limit was reached.
    """

    row: int
    id: int | None
    last: bool


@dataclass
class _Row:
    """A row being decoded.

    Attributes:
        number: as the caller knows it.
        n_left: how many tokens it may still have.
        next: its latest token, which the decoder has not seen.
        known: `next` was computed before the row joined, and has not been told.
    """

    number: int
    n_left: int
    next: int
    known: bool = True


class Decoding:
    """Clips being translated together, one token a step.

    Rows are numbered in the order in which they join.  New ones may join between any two steps; one that ends or is
    dropped leaves, and the others go on cheaper.  Greedy results equal those of batch 1 in fp32.
    """

    def __init__(
        self,
        model: Qwen2AudioForConditionalGeneration,
        processor: Qwen2AudioProcessor,
        audio: Sequence[Tensor],
        prompts: Sequence[Prompt],
        max_new_tokens: int,
    ) -> None:
        """Reads the prompts of the first rows, if any.

        Args:
            model: the translator.
            processor: its processor; only the tokenizer is used.
            audio: encoder output per clip, shape (n_audio_tokens, d_model), see `encode`.
            prompts: one per clip.
            max_new_tokens: a row ends after this many tokens at the latest.
        """
        self._model = model
        self._ends = end_tokens(model, processor.tokenizer)
        self._max_new_tokens = max_new_tokens
        self._n_joined = 0
        self._rows: list[_Row] = []
        self._cache = KeyValues()
        if audio:
            self.join(read(model, processor, audio, prompts))

    @property
    def rows(self) -> list[int]:
        """The rows still being decoded."""
        return [row.number for row in self._rows]

    @torch.inference_mode()
    def join(self, reading: Reading, max_new_tokens: int | None = None) -> list[int]:
        """Adds rows.

        Args:
            reading: by the same model; it cannot join twice.
            max_new_tokens: these rows' own limit; that of all holds as well.

        Returns:
            Their numbers.
        """
        limit = min(max_new_tokens or self._max_new_tokens, self._max_new_tokens)
        rows = [_Row(self._n_joined + i, limit, token) for i, token in enumerate(reading.next)]
        self._n_joined += len(rows)
        self._rows += rows
        self._cache.join(reading.key_values, reading.n_tokens)
        return [row.number for row in rows]

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """One more token of every running row; but those that rows have joined with are told first, and alone."""
        rows = [row for row in self._rows if row.known]
        if not rows and self._rows:
            rows = list(self._rows)
            self._advance()
        tokens = []
        for row in rows:
            row.known = False
            row.n_left -= 1
            ended = row.next in self._ends
            tokens.append(Token(row.number, None if ended else row.next, ended or not row.n_left))
        self.drop({token.row for token in tokens if token.last})
        return tokens

    @torch.inference_mode()
    def drop(self, rows: set[int]) -> None:
        """Takes rows out of the batch, finished or not (a client that went away)."""
        for i in reversed(range(len(self._rows))):
            if self._rows[i].number in rows:
                self._cache.leave(i)
                self._rows[i] = self._rows[-1]
                self._rows.pop()

    def _advance(self) -> None:
        """Shows the decoder each row's latest token, and keeps what follows it."""
        positions, visible = self._cache.extend()
        tokens = torch.tensor([[row.next] for row in self._rows], device=positions.device)
        hidden = self._model.get_input_embeddings()(tokens)
        hidden = run_layers(self._model, hidden, positions, additive(visible, hidden.dtype)[:, None, None], self._cache)
        for row, token in zip(self._rows, likeliest(self._model, hidden[:, 0]), strict=True):
            row.next = token


def end_tokens(model: Qwen2AudioForConditionalGeneration, tokenizer: Any) -> set[int]:
    """The chat format's end of turn, and whatever else the checkpoint's generation settings end at."""
    declared = model.generation_config.eos_token_id
    others = declared if isinstance(declared, list) else [declared]
    ends = {tokenizer.convert_tokens_to_ids(END_OF_TURN), tokenizer.eos_token_id, *others}
    return {token for token in ends if token is not None}
