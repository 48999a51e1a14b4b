"""A clip's sound: synthesised, recorded, or no speech at all.

Without torch, so that the process that speaks is there at once.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np

from compress.audio import N_SAMPLES, SAMPLE_RATE, Samples
from compress.pocket.corpus import Clip
from compress.pocket.speech import REPEATABLE, VOICES, nothing_said, synthesise, vary


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
    pool = ProcessPoolExecutor(1, get_context("spawn"), _leave_with_parent)
    with repeatable():
        pool.submit(os.getpid).result()  # starts the process
    return pool


def _leave_with_parent() -> None:
    """Has this process end when its parent was killed; nobody would be left to ask it anything."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def repeatable() -> Iterator[None]:
    """Has processes that are started within speak the same however much they have spoken before."""
    before = {name: os.environ.get(name) for name in REPEATABLE}
    os.environ.update(REPEATABLE)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _read_g722(path: Path) -> Samples:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    with av.open(str(path), format="g722") as container:
        frames = [frame for block in container.decode(audio=0) for frame in resampler.resample(block)]
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])
