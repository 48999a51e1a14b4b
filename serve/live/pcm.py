"""The sound of the realtime protocol: base64 of 24 kHz PCM16, mono, little-endian, in pieces of any length."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Final

import av
import numpy as np

from compress.audio import SAMPLE_RATE, Samples
from serve.errors import InvalidField

RATE: Final = 24_000  # Hz


class PcmStream:
    """Turns a stream's pieces into the model's samples, the same ones however the stream is chopped up."""

    def __init__(self) -> None:
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)

    def feed(self, pcm: bytes) -> Samples:
        """The samples that a piece completes, shape (n_samples,), mono float32 at `SAMPLE_RATE`."""
        if not pcm:
            return np.zeros(0, np.float32)
        frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2")[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        return _joined(self._resampler.resample(frame))

    def finish(self) -> Samples:
        """The last samples, which the resampler kept back, shape (n_samples,)."""
        return _joined(self._resampler.resample(None))


def decode_pcm(audio: str) -> bytes:
    """The bytes of an `audio` field.

    Raises:
        InvalidField: it is not base64 of whole 16-bit samples.
    """
    try:
        pcm = base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidField("audio", "audio: not base64") from None
    if len(pcm) % 2:
        raise InvalidField("audio", f"audio: {len(pcm):,} bytes are not a whole number of 16-bit samples")
    return pcm


def encode_pcm(samples: Samples) -> str:
    """An `audio` field of samples at `RATE`, shape (n_samples,), in [-1, 1]."""
    return base64.b64encode(np.round(samples * 32767).astype("<i2").tobytes()).decode()


def _joined(frames: Iterable[av.AudioFrame]) -> Samples:
    blocks = [frame.to_ndarray()[0] for frame in frames]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
