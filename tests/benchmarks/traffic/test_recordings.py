"""Recordings are the same each time, of the length asked for, in the format asked for."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from benchmarks.traffic import recordings
from compress.audio import SAMPLE_RATE, decode


def test_single_sentences_go_into_each_language_in_turn() -> None:
    sent = recordings.single(3)
    assert [one.to_language for one in sent] == ["de", "zh", "de"]
    assert all(one.seconds == len(one.samples) / SAMPLE_RATE > 1 for one in sent)
    assert recordings.single(3)[2].audio == sent[2].audio
    assert np.abs(decode(sent[0].audio) - sent[0].samples).max() < 1e-4


@pytest.mark.parametrize("seconds", [1.0, 7.5])
def test_recordings_are_joined_and_cut_to_a_length(seconds: float) -> None:
    one, other = recordings.of_length(seconds, 2, "zh")
    assert len(one.samples) == len(other.samples) == seconds * SAMPLE_RATE
    assert not np.array_equal(one.samples, other.samples)


def test_mp3_is_what_a_recorder_makes() -> None:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    file = recordings.encoded(tone, "mp3")
    with av.open(io.BytesIO(file)) as container:
        (stream,) = container.streams.audio
        assert (stream.codec_context.name, stream.rate, stream.channels) == ("mp3float", 48_000, 2)
    heard = decode(file)
    assert len(heard) == pytest.approx(SAMPLE_RATE, rel=0.05)
    spectrum = np.abs(np.fft.rfft(heard[2000:14000]))
    assert np.argmax(spectrum) * SAMPLE_RATE / 12000 == pytest.approx(440, abs=2)
