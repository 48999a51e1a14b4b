"""A recording as it is heard: decoded and searched for speech in threads, a step at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import chain
from threading import Event
from typing import BinaryIO, Final, Self

import numpy as np

from compress.audio import N_SAMPLES, SAMPLE_RATE, Samples, decode_blocks
from serve.voice import Segment, Segmenter

_SHORT: Final = 8 * SAMPLE_RATE  # samples of a recording that is guessed to hold a single stretch of speech
_STEP: Final = 30 * SAMPLE_RATE  # samples after which another recording may have the thread


@dataclass(frozen=True)
class Heard:
    """So much of the recording has been heard, in seconds; the last one tells its length."""

    audio_s: float


@dataclass(frozen=True)
class Guess:
    """All of a short recording has been heard, but not yet searched for speech: its translation may have a head start.

    If it holds one stretch of speech, which is likely, the `Speech` that follows has these very samples.

    Attributes:
        audio_s: as that of `Heard`, which is not told beside it.
        samples: as those of `Speech`.
    """

    audio_s: float
    samples: Samples


@dataclass(frozen=True)
class Speech:
    """Speech to be translated in one go.

    Attributes:
        samples: shape (n_samples,), mono float32 at `SAMPLE_RATE`, within the encoder's window.
        start_s: where it is in the recording.
        end_s: where it ends.
    """

    samples: Samples
    start_s: float
    end_s: float


class Recording:
    """The speech of a recording, in its order; the next step is taken when the next event is asked for.

    A recording within the encoder's window that holds one stretch of speech is left as it is; of others, the pauses
    are left out.  Iterating raises `AudioError`s as `compress.audio.decode_blocks` does, after what came before.
    """

    def __init__(self, file: BinaryIO, max_s: float | None = None) -> None:
        """Takes a file, which it will close; longer ones than `max_s`, in seconds, are refused."""
        self._file = file
        self._closed = Event()
        self._steps = _hear(file, max_s, self._closed.is_set)
        self._step: asyncio.Future[Heard | Guess | Speech | None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Heard | Guess | Speech:
        self._step = asyncio.get_running_loop().run_in_executor(None, next, self._steps, None)
        # A thread cannot be cancelled, only told to stop.
        event = await asyncio.shield(self._step)
        if event is None:
            raise StopAsyncIteration
        return event

    def close(self) -> None:
        """Ends the work in the thread, and closes the file as soon as it has ended."""
        self._closed.set()
        if self._step is None or self._step.done():
            self._release()
        else:
            self._step.add_done_callback(lambda _: self._release())

    def _release(self) -> None:
        self._steps.close()
        self._file.close()


def _hear(
    file: BinaryIO, max_s: float | None, stop: Callable[[], bool]
) -> Generator[Heard | Guess | Speech, None, None]:
    blocks = decode_blocks(file, max_s, stop)
    first: list[Samples] = []
    for block in blocks:
        first.append(block)
        if sum(map(len, first)) > _SHORT:
            yield from _hear_long(chain(first, blocks))
            return
    if first:
        yield from _hear_short(np.concatenate(first))


def _hear_short(samples: Samples) -> Generator[Heard | Guess | Speech, None, None]:
    yield Guess(len(samples) / SAMPLE_RATE, samples)
    segmenter = Segmenter()
    yield from _said(samples, segmenter.feed(samples) + segmenter.finish())


def _hear_long(blocks: Iterable[Samples]) -> Generator[Heard | Speech, None, None]:
    segmenter = Segmenter()
    found: list[Segment] = []
    window: list[Samples] = []  # all of it, as long as it may be within the encoder's
    n_samples, n_told = 0, 0
    for block in blocks:
        n_samples += len(block)
        found += segmenter.feed(block)
        if n_samples <= N_SAMPLES:
            window.append(block)
            continue
        window.clear()
        if found or n_samples - n_told >= _STEP:
            yield Heard(n_samples / SAMPLE_RATE)
            yield from map(_speech, found)
            n_told = n_samples
            found.clear()
    found += segmenter.finish()
    yield Heard(n_samples / SAMPLE_RATE)
    yield from _said(np.concatenate(window) if window else None, found)


def _said(whole: Samples | None, found: list[Segment]) -> Iterable[Speech]:
    """What is to be translated: the whole recording, where there is one, if it holds one stretch of speech."""
    if whole is not None and len(found) == 1:
        return [Speech(whole, found[0].start_s, found[0].end_s)]
    return map(_speech, found)


def _speech(segment: Segment) -> Speech:
    return Speech(segment.samples, segment.start_s, segment.end_s)
