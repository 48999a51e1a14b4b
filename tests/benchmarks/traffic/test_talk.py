"""A talk is what its sentences say, where they say it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.traffic.talk import CHUNK_S, Sentence, Talk, talk
from compress.audio import SAMPLE_RATE
from compress.errors import RecipeError
from serve.live.pcm import RATE, PcmStream, decode_pcm


def test_chunks_hold_the_sentences_at_their_places() -> None:
    tone = (0.5 * np.sin(np.arange(SAMPLE_RATE) / 10)).astype(np.float32)
    one = Talk("de", (Sentence(0.5, tone, "eins"), Sentence(3.0, tone, "zwei")))
    chunks = [decode_pcm(chunk) for chunk in one.chunks()]
    assert {len(chunk) for chunk in chunks[:-1]} == {2 * round(CHUNK_S * RATE)}
    pcm = PcmStream()
    samples = np.concatenate([*map(pcm.feed, chunks), pcm.finish()])
    assert len(samples) == pytest.approx(one.duration_s * SAMPLE_RATE, abs=2)
    for start_s in (0.5, 3.0):
        inside = slice(round((start_s + 0.1) * SAMPLE_RATE), round((start_s + 0.9) * SAMPLE_RATE))
        heard = tone[round(0.1 * SAMPLE_RATE) : round(0.9 * SAMPLE_RATE)]
        assert np.abs(samples[inside] - heard).max() < 0.01
    assert np.abs(samples[2 * SAMPLE_RATE : 2 * SAMPLE_RATE + 8000]).max() < 0.001, "a pause is silent"


@pytest.mark.usefixtures("synthesisers")
def test_a_talk_is_made_of_report_clips_and_the_same_every_time() -> None:
    one, again = talk("de", 0.3), talk("de", 0.3)
    assert one.duration_s >= 18
    assert [each.reference for each in one.sentences] == [each.reference for each in again.sentences]
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(one.sentences, again.sentences, strict=True))
    for before, after in zip(one.sentences, one.sentences[1:], strict=False):
        assert 0.8 <= after.start_s - before.start_s - before.duration_s <= 2.0
    chinese = talk("zh", 0.3)
    assert [each.start_s for each in chinese.sentences] == [each.start_s for each in one.sentences]


def test_more_than_an_hour_is_refused() -> None:
    with pytest.raises(RecipeError, match="60 minutes at most, not 61"):
        talk("de", 61)
