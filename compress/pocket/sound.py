"""A clip's sound: synthesised, recorded, or no speech at all.

Without torch, so that the process that speaks is there at once.
"""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np

from compress.audio import N_SAMPLES, SAMPLE_RATE, Samples
from compress.pocket.corpus import Clip
from compress.pocket.speech import VOICES, nothing_said, speak_the_same_again, synthesise, vary


def speak(clip: Clip) -> Samples:
    """The clip's sound: a recording, a synthesised sentence, or no speech at all.

    Returns:
        Samples in [-1, 1], shape (n_samples,), mono, at `SAMPLE_RATE`, at most 30 s.
    """
    rng = random.Random(clip.seed)
    if clip.path:
        return _read_g722(Path(clip.path))[:N_SAMPLES]
    if not clip.en:
        return nothing_said(rng)[:N_SAMPLES]
    voice = next(voice for voice in VOICES if voice.name == clip.voice)
    samples = synthesise(clip.en, voice, rng)
    return (vary(samples, rng) if clip.varied else samples)[:N_SAMPLES]


def speak_repeatably(clip: Clip) -> Samples:
    """As `speak`, in a process of its own whose speech depends on the clip alone; it stays for the next one."""
    samples: Samples = _speaker().submit(speak, clip).result()
    return samples


@cache
def _speaker() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"), _open_speaker)


def _open_speaker() -> None:
    """Prepares this process, which also ends when its parent is killed; nobody would be left to ask it anything."""
    speak_the_same_again()
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _read_g722(path: Path) -> Samples:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    with av.open(str(path), format="g722") as container:
        frames = [frame for block in container.decode(audio=0) for frame in resampler.resample(block)]
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])
