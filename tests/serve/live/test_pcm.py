"""The protocol's sound: any chopping gives the same samples, and they are the ones that were spoken."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.audio import SAMPLE_RATE, Samples
from serve.errors import InvalidField
from serve.live.pcm import RATE, PcmStream, decode_pcm, encode_pcm

NOISE = np.random.default_rng(0).normal(0, 8000, RATE // 4).clip(-32768, 32767).astype("<i2").tobytes()


def streamed(pieces: list[bytes]) -> Samples:
    stream = PcmStream()
    return np.concatenate([*map(stream.feed, pieces), stream.finish()])


@given(cuts=st.lists(st.integers(0, len(NOISE) // 2), max_size=30))
def test_chopping_changes_no_sample(cuts: list[int]) -> None:
    edges = [0, *sorted(2 * cut for cut in cuts), len(NOISE)]
    pieces = [NOISE[start:end] for start, end in pairwise(edges)]
    assert np.array_equal(streamed(pieces), streamed([NOISE]))


def test_a_tone_stays_the_tone_it_was() -> None:
    def tone(rate: int) -> Samples:
        return (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)

    heard = streamed([decode_pcm(encode_pcm(tone(RATE)))])
    assert heard.dtype == np.float32
    assert len(heard) == SAMPLE_RATE
    inside = slice(200, -200)
    assert np.abs(heard - tone(SAMPLE_RATE))[inside].max() < 1e-3


def test_no_audio_is_no_samples() -> None:
    assert streamed([]).shape == streamed([b""]).shape == (0,)


@pytest.mark.parametrize("audio", ["not base64!", "AAA", "AAAA", "ä"])
def test_what_is_no_pcm_is_refused(audio: str) -> None:
    with pytest.raises(InvalidField, match=r"audio: (not base64|3 bytes are not a whole number of 16-bit samples)"):
        decode_pcm(audio)
