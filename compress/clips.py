"""The sound of training examples, prepared once: what a frozen tower makes of it, or its samples.

A clip's file is written under another name and renamed when whole: a killed run goes on where it stopped.  Clips go
through the tower one by one, so that no result depends on where that was.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import nn

from compress import decoding
from compress.audio import HOP_LENGTH, N_SAMPLES, SAMPLE_RATE, WINDOW_S, Samples
from compress.errors import AudioError, RecipeError
from compress.model import is_frozen

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    from compress.dataset import Audio

# samples of shape (n_samples,), or encoder output of shape (n_audio_tokens, d_model) in float16
Clip = NDArray[Any]


class Spoken(Protocol):
    """What has a name and a sound: an utterance, or a training example."""

    @property
    def id(self) -> str:
        """What messages call it."""

    @property
    def audio(self) -> Audio:
        """What is heard."""


@dataclass(frozen=True)
class Clips:
    """A directory of prepared clips.

    Attributes:
        directory: one file a clip, named after the sound's key.
    """

    directory: Path

    def load(self, audio: Audio) -> Clip:
        """A prepared clip: samples, shape (n_samples,), or encoder output, shape (n_audio_tokens, d_model)."""
        clip: Clip = np.load(self._path(audio))
        return clip

    def n_tokens(self, audio: Audio) -> int:
        """How many audio tokens a prepared clip takes, from its file's header."""
        shape = np.load(self._path(audio), mmap_mode="r").shape
        return int(shape[0]) if len(shape) == 2 else decoding.n_audio_tokens(-(-shape[0] // HOP_LENGTH))

    def prepare(
        self,
        examples: Sequence[Spoken],
        compute: Callable[[Samples], Clip],
        progress: Progress,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Prepares every sound that is not there yet.

        Args:
            examples: whose sounds.
            compute: from samples, shape (n_samples,), to what is stored.
            progress: shows clips done.
            share: (i, n) for the i-th of n processes that divide the work.

        Raises:
            RecipeError: a sound cannot be read, or is longer than the encoder's window; the message names the example.
        """
        index, count = share
        # dealt out before looking for what is there, or what another process writes meanwhile would shift the shares
        mine = _of_different_sounds(examples)[index::count]
        missing = [one for one in mine if not self._path(one.audio).is_file()]
        for one in progress.track(missing, description="audio") if missing else ():
            with named(one):
                samples = one.audio.load()
            if len(samples) > N_SAMPLES:
                duration_s = len(samples) / SAMPLE_RATE
                raise RecipeError(f"the audio of {one.id} lasts {duration_s:.1f} s; the encoder hears {WINDOW_S} s")
            self._write(one.audio, compute(samples))

    def _path(self, audio: Audio) -> Path:
        name = hashlib.sha256(audio.key.encode()).hexdigest()[:32]
        return self.directory / name[:2] / f"{name}.npy"

    def _write(self, audio: Audio, clip: Clip) -> None:
        path = self._path(audio)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.save(file, clip)
        temporary.replace(path)


def prepare(
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    examples: Sequence[Spoken],
    cache: Path,
    progress: Progress,
    share: tuple[int, int] = (0, 1),
) -> Clips:
    """Prepares the sound of all examples as the model is going to need it.

    Args:
        model: when its tower is frozen, each clip goes through it once, here, and never again.
        processor: for the log-mel spectrograms.
        examples: whose sounds.
        cache: may serve several stages and models: another tower has another folder in it.
        progress: shows clips done.
        share: see `Clips.prepare`.

    Raises:
        RecipeError: see `Clips.prepare`.
    """
    if is_frozen(model, "tower"):
        clips = Clips(cache / f"encoded-{_fingerprint(model.model.audio_tower)}")
        clips.prepare(examples, lambda samples: encoded(model, processor, samples), progress, share)
    else:
        clips = Clips(cache / "samples")
        clips.prepare(examples, lambda samples: samples, progress, share)
    return clips


def encoded(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, samples: Samples
) -> NDArray[np.float16]:
    """The tower's output for one clip, shape (n_audio_tokens, d_model); layer norm leaves values that fit float16."""
    with torch.inference_mode():
        (output,) = decoding.encode(model, decoding.log_mel(processor, [samples]))
    return np.asarray(output.float().cpu().numpy(), np.float16)


def _of_different_sounds(examples: Sequence[Spoken]) -> list[Spoken]:
    """The first example of each sound."""
    found: dict[str, Spoken] = {}
    for one in examples:
        with named(one):
            found.setdefault(one.audio.key, one)  # the key may be in the file
    return list(found.values())


@contextmanager
def named(example: Spoken) -> Iterator[None]:
    """Says whose sound it is that cannot be read."""
    try:
        yield
    except (AudioError, OSError) as error:
        raise RecipeError(f"the audio of {example.id} cannot be used: {error}") from error


def _fingerprint(tower: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, weight in tower.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]
