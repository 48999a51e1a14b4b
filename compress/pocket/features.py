"""From clips to cached encoder features: sound, log-mel, frozen tower, one file a clip.

The tower never changes, so each clip goes through it once.  A clip's file is written under another
name and renamed when whole: a killed run goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from compress import decoding
from compress.pocket.corpus import Clip
from compress.pocket.sound import speak
from compress.pocket.speech import speak_the_same_again

Features = NDArray[np.float16]

_CLIPS_PER_TASK: Final = 24


def path_of(clip: Clip, directory: Path) -> Path:
    """Where a clip's features lie."""
    return directory / clip.id[:2] / f"{clip.id}.npy"


def load(clip: Clip, directory: Path) -> Features:
    """A clip's features, shape (n_audio_tokens, d_model)."""
    return np.asarray(np.load(path_of(clip, directory)), np.float16)


def build(clips: Sequence[Clip], skeleton: Path, directory: Path, progress: Progress, workers: int) -> None:
    """Computes the features of all clips that have none yet.

    Args:
        clips: what to speak.
        skeleton: a checkpoint whose tower and feature extractor are used.
        directory: the cache.
        progress: shows clips done and time left.
        workers: processes, one core each.
    """
    todo = [clip for clip in clips if not path_of(clip, directory).is_file()]
    task = progress.add_task("speech and features", total=len(clips), completed=len(clips) - len(todo))
    chunks = [todo[i : i + _CLIPS_PER_TASK] for i in range(0, len(todo), _CLIPS_PER_TASK)]
    with ProcessPoolExecutor(workers, get_context("spawn"), _open_worker, (skeleton, directory)) as pool:
        for future in as_completed([pool.submit(_make, chunk) for chunk in chunks]):
            progress.advance(task, future.result())


class _Worker:
    """What a worker process keeps between clips."""

    parent: int
    model: Any
    processor: Any
    directory: Path


def _open_worker(skeleton: Path, directory: Path) -> None:
    from compress.checkpoint import Checkpoint

    speak_the_same_again()
    torch.set_num_threads(1)
    _Worker.parent = os.getppid()
    checkpoint = Checkpoint.open(skeleton)
    _Worker.model = checkpoint.load_model("cpu", torch.float32)
    _Worker.processor = checkpoint.load_processor()
    _Worker.directory = directory


def _make(clips: Sequence[Clip]) -> int:
    for clip in clips:
        if os.getppid() != _Worker.parent:
            os._exit(1)  # the parent was killed: an orphan would go on using a core
        mel = decoding.log_mel(_Worker.processor, [speak(clip)])
        with torch.inference_mode():
            (features,) = decoding.encode(_Worker.model, mel)
        path = path_of(clip, _Worker.directory)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.save(file, features.numpy().astype(np.float16))
        temporary.replace(path)
    return len(clips)
