"""Talks to be translated live: the pocket corpus' report clips, one after the other, with pauses."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import soxr

from compress import dataset
from compress.audio import SAMPLE_RATE, Samples
from compress.errors import RecipeError
from compress.recipe import Data
from serve.live.pcm import RATE, encode_pcm

CHUNK_S: Final = 0.2  # what a microphone delivers at a time
DOMAINS: Final = ("talks", "phone")

_PAUSES_S: Final = (0.8, 2.0)  # longer than what ends a segment, shorter than what anybody would call silence
MAX_MINUTES: Final = 60  # to draw the sentences of more takes minutes itself
_PER_MINUTE: Final = 20  # sentences to choose from, more than fit


@dataclass(frozen=True)
class Sentence:
    """One sentence of a talk: where it is, its sound, shape (n_samples,), and its reference translation."""

    start_s: float
    samples: Samples
    reference: str

    @property
    def duration_s(self) -> float:
        """How long it lasts, in seconds."""
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True)
class Talk:
    """Sentences of several speakers, one after the other, and the language to translate them into."""

    language: str
    sentences: tuple[Sentence, ...]

    @property
    def duration_s(self) -> float:
        """Up to the end of a last pause, in seconds."""
        last = self.sentences[-1]
        return last.start_s + last.duration_s + _PAUSES_S[1]

    def chunks(self) -> Iterator[str]:
        """The sound as a client sends it: `audio` fields of `CHUNK_S` each, the last one shorter."""
        samples = np.zeros(round(self.duration_s * SAMPLE_RATE), np.float32)
        for sentence in self.sentences:
            start = round(sentence.start_s * SAMPLE_RATE)
            samples[start : start + len(sentence.samples)] = sentence.samples
        sent = soxr.resample(samples, SAMPLE_RATE, RATE)
        step = round(CHUNK_S * RATE)
        for at in range(0, len(sent), step):
            yield encode_pcm(sent[at : at + step])


def talk(language: str, minutes: float) -> Talk:
    """A talk of at least so many minutes; the same one every time.

    Raises:
        RecipeError: more than an hour of it, a synthesiser is missing, or there are not as many sentences.
    """
    if minutes > MAX_MINUTES:
        raise RecipeError(f"a talk lasts {MAX_MINUTES} minutes at most, not {minutes:g}")
    rng = random.Random(0)
    # a split has as many sentences again by voices that were never heard in training
    n_report = math.ceil(minutes * _PER_MINUTE / len(DOMAINS) / 2)
    utterances = [
        utterance
        for domain in DOMAINS
        for utterance in dataset.load(
            Data(source="pocket", domain=domain, n_report=n_report), language, "report"
        ).utterances
    ]
    rng.shuffle(utterances)
    sentences: list[Sentence] = []
    at_s = rng.uniform(*_PAUSES_S)
    for utterance in utterances:
        sentences.append(Sentence(at_s, utterance.audio.load(), utterance.translation))
        at_s += sentences[-1].duration_s + rng.uniform(*_PAUSES_S)
        if at_s >= 60 * minutes:
            return Talk(language, tuple(sentences))
    raise RecipeError(f"the report split has sentences for {at_s / 60:.1f} minutes, not for {minutes:g}")
