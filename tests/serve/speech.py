"""Recordings of known content: sentences with pauses between them."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from compress.audio import SAMPLE_RATE, Samples, decode


def sentences(clips: Iterable[Path]) -> list[Samples]:
    """The clips without the silence around what is said."""
    found = []
    for clip in clips:
        samples = decode(clip)
        (loud,) = np.nonzero(np.abs(samples) > 0.02)
        found.append(samples[loud[0] : loud[-1] + 1])
    return found


def silence(seconds: float) -> Samples:
    """Not quite nothing, as a microphone has it."""
    n_samples = round(seconds * SAMPLE_RATE)
    return np.random.default_rng(0).normal(0, 3e-4, n_samples).astype(np.float32)


def talk(said: Sequence[Samples], pause_s: float) -> tuple[Samples, list[tuple[int, int]]]:
    """Sentences with a pause before, between and after; and where each begins and ends, in samples."""
    parts, bounds = [silence(pause_s)], []
    n_samples = len(parts[0])
    for sentence in said:
        bounds.append((n_samples, n_samples + len(sentence)))
        parts += [sentence, silence(pause_s)]
        n_samples += len(sentence) + len(parts[-1])
    return np.concatenate(parts), bounds


def wav(samples: Samples) -> bytes:
    """A file of 16 bits."""
    file = io.BytesIO()
    with wave.open(file, "wb") as content:
        content.setnchannels(1)
        content.setsampwidth(2)
        content.setframerate(SAMPLE_RATE)
        content.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return file.getvalue()
