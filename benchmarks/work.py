"""What each step of one request cannot do without: operations and bytes, counted from the model's shapes.

Operations are those of products, a multiply-add being two; attention counts all pairs of positions that it is given,
those that a mask hides included, as dense kernels compute them.  Activation functions, norms and softmax are left out:
they are a few operations an element, where products are as many as the model is wide.  Bytes are what has to be read
or written at least once: weights, keys and values, what goes in and what comes out; not what one layer hands to the
next, which can stay in a cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from compress.audio import HOP_LENGTH
from compress.decoding import CONVOLUTION_REACH, n_audio_tokens
from compress.weights.architectures import LM_HEAD, Architecture, Shape, is_linear

_SAMPLE_BYTES: Final = 4  # samples and mel features are fp32 whatever the model is


@dataclass(frozen=True)
class Work:
    """Operations, a multiply-add being two, and bytes read and written."""

    operations: int
    n_bytes: int

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.n_bytes + other.n_bytes)


def decoded_audio(file_bytes: int, n_samples: int) -> Work:
    """A file to samples; what a codec computes nobody has counted."""
    return Work(0, file_bytes + _SAMPLE_BYTES * n_samples)


def mel(n_samples: int, n_fft: int, n_mels: int) -> Work:
    """Samples to log-mel features, a real FFT of n points counted as 2.5 n log2 n operations, as is the custom."""
    n_frames, n_bins = -(-n_samples // HOP_LENGTH) + CONVOLUTION_REACH, n_fft // 2 + 1
    per_frame = 2.5 * n_fft * math.log2(n_fft) + 3 * n_bins + 2 * n_mels * n_bins
    return Work(round(n_frames * per_frame), _SAMPLE_BYTES * (n_samples + n_mels * n_frames))


def encoder(architecture: Architecture, n_frames: int, width: int) -> Work:
    """Log-mel features of one clip to audio embeddings.

    Args:
        architecture: the model's.
        n_frames: mel frames that hold audio.
        width: bytes of an element of weights and activations.
    """
    a, shapes = architecture, architecture.shapes()
    n_seen = n_frames + CONVOLUTION_REACH
    convolutions = sum(
        2 * math.prod(shapes[f"audio_tower.{name}.weight"]) * n_positions
        for name, n_positions in (("conv1", n_seen), ("conv2", (n_seen - 1) // 2 + 1))
    )
    n_positions = (n_frames - 1) // 2 + 1
    tower = {name: shape for name, shape in shapes.items() if name.startswith("audio_tower.")}
    attention = _attention(n_positions, n_positions, a.tower_width) * a.n_tower_layers
    weights = _elements(shape for name, shape in tower.items() if "embed_positions" not in name)
    positions, out = n_positions * a.tower_width, n_audio_tokens(n_frames) * a.tower_width
    return Work(
        convolutions + _products(tower, n_positions) + attention,
        _SAMPLE_BYTES * a.n_mels * n_seen + width * (weights + positions + out),
    )


def prefill(architecture: Architecture, n_audio: int, n_text: int, width: int) -> Work:
    """One prompt with its audio, to its first new token.

    Args:
        architecture: the model's.
        n_audio: embeddings of the audio, `decoding.n_audio_tokens`.
        n_text: the prompt's other tokens.
        width: bytes of an element.
    """
    a, shapes, n = architecture, architecture.shapes(), n_audio + n_text
    projector = {name: shape for name, shape in shapes.items() if name.startswith("multi_modal_projector.")}
    decoder = _decoder(shapes)
    attention = _attention(n, n, a.n_heads * a.head_width) * a.n_layers
    in_and_out = n_audio * a.tower_width + n_text * a.width + n * _slot(a)
    return Work(
        _products(projector, n_audio) + _products(decoder, n) + attention,
        width * (_elements(projector.values()) + _elements(decoder.values()) + in_and_out),
    ) + lm_head(a, 1, width)


def decode_step(architecture: Architecture, n_rows: int, n_slots: int, width: int) -> Work:
    """One more token of each of several rows.

    Args:
        architecture: the model's.
        n_rows: decoded together.
        n_slots: that each row looks at, the new one included.
        width: bytes of an element.
    """
    a, decoder = architecture, _decoder(architecture.shapes())
    attention = n_rows * _attention(1, n_slots, a.n_heads * a.head_width) * a.n_layers
    slots = n_rows * n_slots * _slot(a)
    return Work(
        _products(decoder, n_rows) + attention, width * (_elements(decoder.values()) + slots + n_rows * a.width)
    ) + lm_head(a, n_rows, width)


def lm_head(architecture: Architecture, n_rows: int, width: int) -> Work:
    """Scores of the whole vocabulary for each row."""
    shape = architecture.shapes()[LM_HEAD]
    return Work(2 * n_rows * math.prod(shape), width * (math.prod(shape) + n_rows * sum(shape)))


def _decoder(shapes: dict[str, Shape]) -> dict[str, Shape]:
    """Layers and last norm."""
    return {
        name: shape
        for name, shape in shapes.items()
        if name.startswith("language_model.model.") and "embed_tokens" not in name
    }


def _products(shapes: dict[str, Shape], n_positions: int) -> int:
    """Of every linear module with each position."""
    return 2 * n_positions * _elements(shape for name, shape in shapes.items() if is_linear(name, shape))


def _attention(n_queries: int, n_keys: int, width: int) -> int:
    """Scores and sums of one layer, all heads together."""
    return 4 * n_queries * n_keys * width


def _slot(architecture: Architecture) -> int:
    """Elements of one token's keys and values."""
    return 2 * architecture.n_layers * architecture.n_kv_heads * architecture.head_width


def _elements(shapes: Iterable[Shape]) -> int:
    return sum(math.prod(shape) for shape in shapes)
