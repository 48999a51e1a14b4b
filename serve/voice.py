"""Where somebody speaks: a stream of samples cut into stretches of speech, at its pauses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compress.audio import SAMPLE_RATE, WINDOW_S, Samples
from serve.detector import FRAME, Frames, Silero, Voice


@dataclass(frozen=True)
class VoiceSettings:
    """What counts as speech, and where it is cut.

    Attributes:
        threshold: probability of speech from which a stretch begins.
        hangover: probability below which it may end; lower, because the detector flickers inside words.
        certainty: probability that every speech reaches, also in noise as loud as itself, but tones and noises do not.
        pause_s: a stretch ends with this much silence.
        min_speech_s: a stretch with less certain speech than this is a noise.
        padding_s: kept before and after the voice, because soft consonants are missed.
        max_s: a stretch is cut before it gets longer than this.
    """

    threshold: float = 0.5
    hangover: float = 0.35
    certainty: float = 0.9
    pause_s: float = 0.5
    min_speech_s: float = 0.1
    padding_s: float = 0.2
    max_s: float = WINDOW_S

    def __post_init__(self) -> None:
        """Raises `ValueError` where the settings contradict each other."""
        if not 0 < self.hangover <= self.threshold <= self.certainty <= 1:
            raise ValueError("hangover, threshold and certainty must rise, and lie between 0 and 1")
        if not 0 <= self.padding_s <= self.pause_s or not 0 < self.pause_s < self.max_s / 3:
            raise ValueError("padding_s must be at most pause_s, and pause_s under a third of max_s")


@dataclass(frozen=True)
class Segment:
    """A stretch of speech.

    Attributes:
        start: the sample where it begins, counted from the stream's first.
        samples: shape (n_samples,), mono float32 at `SAMPLE_RATE`.
    """

    start: int
    samples: Samples

    @property
    def end(self) -> int:
        """The first sample behind it, counted from the stream's first."""
        return self.start + len(self.samples)

    @property
    def start_s(self) -> float:
        """Seconds from the stream's first sample to its own."""
        return self.start / SAMPLE_RATE

    @property
    def end_s(self) -> float:
        """Seconds from the stream's first sample to its end."""
        return self.end / SAMPLE_RATE


@dataclass(frozen=True)
class _Frame:
    """Samples judged together, shape (`FRAME`,), fewer at the end of a stream; and the probability of speech."""

    samples: Samples
    voice: float


class Segmenter:
    """Finds the stretches of speech in one stream, the same ones however the stream is chopped up.

    Holds no more than the stretch that is being spoken.  Not for several threads at once.
    """

    def __init__(
        self, settings: VoiceSettings | None = None, detector: Callable[[Frames], Voice] | None = None
    ) -> None:
        """Begins a stream.

        Args:
            settings: see `VoiceSettings`.
            detector: probabilities of speech in a stream's next frames; Silero's if None.
        """
        self._settings = settings = settings or VoiceSettings()
        self._detector = detector or Silero()
        self._n_padding = round(settings.padding_s * SAMPLE_RATE / FRAME)
        self._n_pause = max(1, self._n_padding, round(settings.pause_s * SAMPLE_RATE / FRAME))
        self._n_max = int(settings.max_s * SAMPLE_RATE) // FRAME
        self._pending: Samples = np.zeros(0, np.float32)  # less than a frame
        self._frames: list[_Frame] = []  # the stretch being spoken, or the padding of one that may come
        self._start = 0  # the sample that `_frames` begin with
        self._speaking = False

    @property
    def growing(self) -> Segment | None:
        """The stretch that is being spoken, as far as it was judged; None in a pause."""
        if not self._speaking or not self._is_speech(self._frames):
            return None
        return self._segment(len(self._frames))

    def feed(self, samples: Samples) -> list[Segment]:
        """Takes the stream's next samples, shape (n_samples,); returns the stretches that ended in them."""
        pending = np.concatenate([self._pending, samples], dtype=np.float32)
        whole = len(pending) // FRAME * FRAME
        self._pending = pending[whole:].copy()
        frames = pending[:whole].reshape(-1, FRAME)
        judged = zip(frames, self._detector(frames), strict=True)
        # copied, as one that is kept would keep all of them
        found = [self._hear(frame.copy(), float(voice)) for frame, voice in judged]
        return [segment for segment in found if segment is not None]

    def finish(self) -> list[Segment]:
        """Ends the stream; returns the stretch that ended with it, if one did."""
        last = self._pending
        found = []
        if len(last):
            (voice,) = self._detector(np.pad(last, (0, FRAME - len(last)))[None])
            found.append(self._hear(last, float(voice)))
        if self._speaking:
            found.append(self._end())
        return [segment for segment in found if segment is not None]

    def _hear(self, samples: Samples, voice: float) -> Segment | None:
        """Takes a frame that was judged; returns the stretch that ends with it."""
        self._frames.append(_Frame(samples, voice))
        if not self._speaking:
            if self._frames[-1].voice >= self._settings.threshold:
                self._speaking = True
            else:
                self._pause()
            return None
        if len(self._frames) - self._n_voiced() >= self._n_pause:
            return self._end()
        return self._cut() if len(self._frames) >= self._n_max else None

    def _end(self) -> Segment | None:
        """The stretch before a pause, or before the end of the stream; None if it was only a noise."""
        segment = self._take(min(len(self._frames), self._n_voiced() + self._n_padding))
        self._pause()
        return segment

    def _cut(self) -> Segment | None:
        """The first part of a stretch that has become too long; the other part goes on."""
        segment = self._take(self._quietest(self._n_max * 2 // 3))
        if not self._n_voiced():
            self._pause()
        return segment

    def _take(self, n_frames: int) -> Segment | None:
        segment = self._segment(n_frames) if self._is_speech(self._frames[:n_frames]) else None
        self._forget(n_frames)
        return segment

    def _pause(self) -> None:
        self._speaking = False
        self._forget(len(self._frames) - self._n_padding)

    def _quietest(self, first: int) -> int:
        """The least voiced moment from frame `first` on; over three frames, as one alone may be a flicker."""
        voice = np.array([frame.voice for frame in self._frames])
        around = np.convolve(voice, np.ones(3), mode="same")
        return first + int(np.argmin(around[first:-1]))

    def _n_voiced(self) -> int:
        """Frames up to the last voiced one."""
        n = len(self._frames)
        while n and self._frames[n - 1].voice < self._settings.hangover:
            n -= 1
        return n

    def _is_speech(self, frames: list[_Frame]) -> bool:
        n_certain = sum(len(frame.samples) for frame in frames if frame.voice >= self._settings.certainty)
        return n_certain >= self._settings.min_speech_s * SAMPLE_RATE

    def _segment(self, n_frames: int) -> Segment:
        return Segment(self._start, np.concatenate([frame.samples for frame in self._frames[:n_frames]]))

    def _forget(self, n_frames: int) -> None:
        """Drops frames from the front; none for a number below 1."""
        dropped, self._frames = self._frames[: max(0, n_frames)], self._frames[max(0, n_frames) :]
        self._start += sum(len(frame.samples) for frame in dropped)
