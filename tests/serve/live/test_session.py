"""The core of a live session, without socket, clock or engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.audio import SAMPLE_RATE, Samples
from serve.detector import Frames, Voice
from serve.live.policies import Pace
from serve.live.session import Question, Session
from serve.voice import Segmenter

SEGMENT, AGREEMENT = Pace(None), Pace(0.5)
Translate = Callable[[Question], str]


def loud(frames: Frames) -> Voice:
    """A detector to which everything loud is speech."""
    return np.asarray(np.abs(frames).max(axis=1, initial=0.0) > 0.1, np.float32)


def speech(*seconds: float) -> Samples:
    """Loud for the first number of seconds, silent for the second, and so on; every loud stretch is of its own kind."""
    parts = [np.full(round(s * SAMPLE_RATE), 0 if i % 2 else 0.2 + i / 100, np.float32) for i, s in enumerate(seconds)]
    return np.concatenate(parts)


def length(question: Question) -> str:
    """A translator that counts the voiced tenths of a second, one word each."""
    n = round(10 * np.count_nonzero(question.samples) / SAMPLE_RATE)
    return (" " if question.to_language == "de" else "").join("abcdefghijklmnopqrstuvwxyz"[i % 26] for i in range(n))


class Stream:
    """A session, what it has asked and what it has sent."""

    def __init__(self, pace: Pace, translate: Translate = length, to_language: str = "de") -> None:
        self.session = Session(to_language, pace, Segmenter(detector=loud))
        self.questions: list[Question] = []
        self.texts: list[str] = []
        self._translate = translate

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def hear(self, samples: Samples, chunk_s: float = 0.1) -> None:
        step = round(chunk_s * SAMPLE_RATE)
        for at in range(0, len(samples), step):
            self.session.feed(samples[at : at + step])
            self.answer()

    def answer(self) -> None:
        while (question := self.session.step()) is not None:
            self.questions.append(question)
            translation = self._translate(question)
            pieces = [translation[i : i + 3] for i in range(0, len(translation), 3)]
            self.texts += [text for text in (*map(self.session.hear, pieces), self.session.conclude()) if text]

    def finish(self) -> str:
        self.session.finish()
        self.answer()
        assert self.session.done
        return self.text


def test_a_segment_is_sent_when_it_has_ended() -> None:
    stream = Stream(SEGMENT)
    stream.hear(speech(1, 0.5))
    assert stream.text == ""
    stream.hear(speech(0, 0.5))
    assert stream.text == "a b c d e f g h i j"
    (question,) = stream.questions
    assert question.ended
    assert 1.6 <= question.heard_s <= 1.8, "a stretch ends with 0.6 s of silence"
    assert not stream.session.done
    assert stream.finish() == "a b c d e f g h i j"


@pytest.mark.parametrize(("code", "text"), [("de", "a b c a b c d"), ("zh", "abcabcd")])
def test_segments_are_joined_as_the_language_is_written(code: str, text: str) -> None:
    stream = Stream(SEGMENT, to_language=code)
    stream.hear(speech(0.3, 1, 0.4, 1))
    assert stream.finish() == text


def test_what_is_being_spoken_at_the_end_is_translated() -> None:
    stream = Stream(SEGMENT)
    stream.hear(speech(0.4))
    assert stream.questions == []
    assert stream.finish() == "a b c d"


def test_agreement_sends_while_somebody_speaks() -> None:
    stream = Stream(AGREEMENT)
    stream.hear(speech(2))
    growing = list(stream.questions)
    assert [question.ended for question in growing] == [False] * len(growing)
    lengths_s = [len(question.samples) / SAMPLE_RATE for question in growing]
    assert len(growing) == 3
    assert np.diff(lengths_s).min() >= 0.5, "not more often than the pace says"
    n_words = [round(10 * seconds) for seconds in lengths_s]
    # what the last two have in common, the last word of the newest left out
    assert len(stream.text.split()) == n_words[-2]
    assert stream.finish() == " ".join("abcdefghijklmnopqrst")


def test_a_stretch_keeps_its_language_and_the_next_has_the_new_one() -> None:
    stream = Stream(AGREEMENT)
    stream.hear(speech(1))
    stream.session.to_language = "zh"
    stream.hear(speech(0.5, 1, 0.5, 1))
    stream.session.to_language = "de"
    stream.hear(speech(0.5, 1))
    assert stream.finish() == "a b c d e f g h i j k l m n o abcde a b c d e"


def test_whoever_is_late_gives_up_what_is_overtaken() -> None:
    stream = Stream(AGREEMENT)
    session = stream.session
    session.feed(speech(1))
    question = session.step()
    assert question is not None
    assert not question.ended
    assert not session.overtaken
    session.feed(speech(0, 1))
    assert session.overtaken
    assert session.waiting_s == pytest.approx(1.2, abs=0.1), "the speech, and padding"
    stream.answer()
    assert session.waiting_s == 0
    assert stream.text == "a b c d e f g h i j"


def test_a_translation_that_failed_costs_its_own_text_only() -> None:
    stream = Stream(SEGMENT)
    stream.session.feed(speech(0.3, 1, 0.5, 1))
    assert stream.session.step() is not None
    assert stream.session.hear("a b") == "a b"
    stream.answer()
    assert stream.finish() == " a b c d e"


def test_silence_is_nothing() -> None:
    stream = Stream(AGREEMENT)
    stream.hear(speech(0, 5))
    assert stream.finish() == ""
    assert stream.questions == []
    assert stream.session.heard_s == 5


def test_a_session_without_audio_is_done_at_once() -> None:
    assert Stream(SEGMENT).finish() == ""


@settings(deadline=None, max_examples=30)  # the machine may be busy
@given(
    seconds=st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7, 1.3]), max_size=8),
    chunk_s=st.sampled_from([0.013, 0.1, 0.25, 60]),
    wobble=st.integers(1, 5),
)
def test_any_chopping_and_any_hypotheses_end_in_the_same_segments(
    seconds: list[float], chunk_s: float, wobble: int
) -> None:
    def wavering(question: Question) -> str:
        words = length(question).split()
        return " ".join(words if question.ended else [w * (1 + i % wobble) for i, w in enumerate(words)])

    samples = speech(0, 0.1, *seconds)
    plain, changing = Stream(SEGMENT), Stream(AGREEMENT, wavering)
    plain.hear(samples, chunk_s)
    changing.hear(samples, 0.2)
    whole = plain.finish()
    assert len(changing.finish().split()) == len(whole.split()), "as many words as the final translation has"
    ended = [question for question in changing.questions if question.ended]
    assert len(ended) == len(plain.questions)
    for one, other in zip(ended, plain.questions, strict=True):
        assert np.array_equal(one.samples, other.samples)
