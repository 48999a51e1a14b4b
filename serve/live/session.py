"""The core of a live session: samples in, questions to a translator and pieces of text out.

It knows no socket, no clock and no engine.  Who drives it feeds it samples, asks what is to be translated (`step`),
has that done, and hands back what the translator says, piece by piece:

    session.feed(samples)
    while (question := session.step()) is not None:
        for piece in translated(question.samples, question.to_language):
            send(session.hear(piece))
        send(session.conclude())

After `finish`, it is `done` when `step` has nothing left to ask.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from compress.audio import SAMPLE_RATE, Samples
from compress.prompt import language
from serve.live.policies import Committed, Pace
from serve.voice import Segment, Segmenter


@dataclass(frozen=True)
class Question:
    """Speech to be translated.

    Attributes:
        samples: shape (n_samples,), mono float32 at `SAMPLE_RATE`.
        to_language: code of the target language.
        ended: nothing more belongs to it; otherwise its speaker goes on, and it may be asked for again.
        heard_s: how much of the stream had been heard when there was all of it, in seconds.
    """

    samples: Samples
    to_language: str
    ended: bool
    heard_s: float


@dataclass
class _Stretch:
    """A stretch of speech, from when it was first noticed."""

    start: int
    to_language: str
    n_asked: int = 0  # samples of it that have been translated
    spoken: bool = False  # some of its text has been sent
    committed: Committed = field(init=False)

    def __post_init__(self) -> None:
        self.committed = Committed(self.to_language)


@dataclass
class _Open:
    """The question that waits for its answer, and the answer so far."""

    question: Question
    stretch: _Stretch
    text: str = ""


class Session:
    """One speaker's stream.  Not for several threads at once.

    Attributes:
        to_language: code of the language that stretches are translated into which have not been noticed yet.
    """

    def __init__(self, to_language: str, pace: Pace, segmenter: Segmenter | None = None) -> None:
        """Begins a stream.

        Args:
            to_language: see the attribute.
            pace: see `policies.Pace`.
            segmenter: finds the stretches of speech; one with the usual settings if None.
        """
        self.to_language = to_language
        self._n_again = None if pace.again_s is None else round(pace.again_s * SAMPLE_RATE)
        self._segmenter = segmenter or Segmenter()
        self._n_heard = 0
        self._finished = False
        self._growing: _Stretch | None = None
        self._ended: deque[tuple[_Stretch, Question]] = deque()
        self._open: _Open | None = None
        self._last_language = ""  # of the text sent last

    @property
    def heard_s(self) -> float:
        """Seconds of the stream that have been fed."""
        return self._n_heard / SAMPLE_RATE

    @property
    def waiting_s(self) -> float:
        """Seconds of speech that ended and whose translation has not begun."""
        return sum(len(question.samples) for _, question in self._ended) / SAMPLE_RATE

    @property
    def overtaken(self) -> bool:
        """The open question's stretch has ended meanwhile: its answer is not worth waiting for."""
        return self._open is not None and not self._open.question.ended and bool(self._ended)

    @property
    def done(self) -> bool:
        """The stream has ended, and there is nothing left to ask or to answer."""
        return self._finished and self._open is None and not self._ended

    def feed(self, samples: Samples) -> None:
        """Takes the stream's next samples, shape (n_samples,), mono float32 at `SAMPLE_RATE`."""
        self._n_heard += len(samples)
        for segment in self._segmenter.feed(samples):
            self._end(segment)
        growing = self._segmenter.growing
        if growing is not None and (self._growing is None or self._growing.start != growing.start):
            self._growing = _Stretch(growing.start, self.to_language)

    def finish(self) -> None:
        """Ends the stream; what is being spoken is taken as ended."""
        for segment in self._segmenter.finish():
            self._end(segment)
        self._growing = None
        self._finished = True

    def step(self) -> Question | None:
        """What is to be translated next, or None for now: ended stretches in their order, then the growing one.

        An open question is given up by asking for the next.
        """
        self._open = None
        if self._ended:
            stretch, question = self._ended.popleft()
        elif (found := self._growing_question()) is not None:
            stretch, question = found
        else:
            return None
        self._open = _Open(question, stretch)
        return question

    def hear(self, piece: str) -> str:
        """Takes a piece of the open question's answer; returns the text that may be sent now, possibly empty."""
        return self._read(piece, complete=False)

    def conclude(self) -> str:
        """The open question's answer is complete; returns the text that may be sent now, possibly empty."""
        text = self._read("", complete=True)
        self._open = None
        return text

    def _read(self, piece: str, *, complete: bool) -> str:
        assert self._open is not None, "nothing was asked"
        stretch = self._open.stretch
        self._open.text += piece
        read = stretch.committed.settle if self._open.question.ended else stretch.committed.agree
        text = read(self._open.text, complete=complete)
        return self._joined(stretch, text) if text else ""

    def _joined(self, stretch: _Stretch, text: str) -> str:
        """The text with what stands between it and the stretch before, if it is the first of its own."""
        before, self._last_language = self._last_language, stretch.to_language
        if stretch.spoken or not before:
            joiner = ""
        else:
            joiner = language(before).joiner if before == stretch.to_language else " "
        stretch.spoken = True
        return joiner + text

    def _end(self, segment: Segment) -> None:
        stretch = self._growing
        if stretch is None or stretch.start != segment.start:
            stretch = _Stretch(segment.start, self.to_language)
        self._growing = None
        self._ended.append((stretch, Question(segment.samples, stretch.to_language, True, self.heard_s)))

    def _growing_question(self) -> tuple[_Stretch, Question] | None:
        growing, stretch = self._segmenter.growing, self._growing
        if self._n_again is None or stretch is None or growing is None:
            return None
        if len(growing.samples) - stretch.n_asked < self._n_again:
            return None
        stretch.n_asked = len(growing.samples)
        return stretch, Question(growing.samples, stretch.to_language, False, self.heard_s)
