"""Speech with pauses, speech without, and what is no speech."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.audio import N_SAMPLES, SAMPLE_RATE, Samples
from compress.pocket.speech import nothing_said
from serve.detector import FRAME, Frames, Silero, Voice
from serve.voice import Segment, Segmenter, VoiceSettings
from tests.serve.speech import sentences, silence, talk

TOLERANCE = round(0.15 * SAMPLE_RATE)  # beside the padding


@pytest.fixture(scope="module")
def said(clips: list[Path]) -> list[Samples]:
    return sentences(clips)


def segments(samples: Samples, *sizes: int, segmenter: Segmenter | None = None) -> list[Segment]:
    """The segments of a stream that is fed in chunks of these sizes, then all at once."""
    segmenter = segmenter or Segmenter()
    found, at = [], 0
    for size in sizes:
        found += segmenter.feed(samples[at : at + size])
        at += size
    return found + segmenter.feed(samples[at:]) + segmenter.finish()


def bounds(found: list[Segment]) -> list[tuple[int, int]]:
    return [(segment.start, segment.end) for segment in found]


def loudness(frames: Frames) -> Voice:
    """A detector for streams that are made of probabilities."""
    return np.asarray(frames.max(axis=1, initial=0.0))


def stream(probabilities: list[float]) -> Samples:
    """Frames for which `loudness` gives these."""
    return np.repeat(np.array(probabilities, np.float32), FRAME)


# --- speech -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause_s", [0.8, 3])
def test_every_sentence_is_a_segment(said: list[Samples], pause_s: float) -> None:
    samples, wanted = talk(said, pause_s)
    found = segments(samples)
    assert len(found) == len(wanted)
    padding = round(VoiceSettings().padding_s * SAMPLE_RATE)
    for segment, (start, end) in zip(found, wanted, strict=True):
        assert segment.start == pytest.approx(start - padding, abs=TOLERANCE)
        assert segment.end == pytest.approx(end + padding, abs=TOLERANCE)
        assert segment.start_s == segment.start / SAMPLE_RATE
        assert segment.end_s == segment.end / SAMPLE_RATE
        np.testing.assert_array_equal(segment.samples, samples[segment.start : segment.end])
    assert all(one.end <= other.start for one, other in pairwise(found))


def test_a_short_pause_is_part_of_the_speech(said: list[Samples]) -> None:
    samples, wanted = talk(said[:2], 0.2)
    (segment,) = segments(samples)
    assert segment.start < wanted[0][0] + TOLERANCE
    assert segment.end > wanted[1][1] - TOLERANCE


def test_speech_up_to_the_end_is_heard_to_the_end(said: list[Samples]) -> None:
    samples = said[0][: len(said[0]) // FRAME * FRAME - 100]  # in the middle of a frame
    (segment,) = segments(samples)
    assert (segment.start, segment.end) == (0, len(samples))


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(0, 30_000), max_size=12), odd=st.integers(0, FRAME))
def test_any_chunking_gives_the_same_segments(said: list[Samples], sizes: list[int], odd: int) -> None:
    samples = talk(said[:2], 0.8)[0][odd:]
    whole, chopped = segments(samples), segments(samples, *sizes)
    assert bounds(whole) == bounds(chopped)
    for one, other in zip(whole, chopped, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)


def test_what_is_being_spoken_grows_into_the_segment(said: list[Samples]) -> None:
    samples, wanted = talk(said[:2], 1)
    segmenter = Segmenter()
    growing: list[Segment] = []
    ended: list[Segment] = []
    for at in range(0, len(samples), 1600):
        ended += segmenter.feed(samples[at : at + 1600])
        if segmenter.growing is not None and not ended:
            growing.append(segmenter.growing)
    assert wanted[0][0] < growing[0].end < wanted[0][0] + 0.5 * SAMPLE_RATE, "noticed soon"
    assert {segment.start for segment in growing} == {ended[0].start}
    assert all(len(one.samples) < len(other.samples) for one, other in pairwise(growing))
    np.testing.assert_array_equal(growing[2].samples, ended[0].samples[: len(growing[2].samples)])
    assert segmenter.growing is None, "a pause"


def test_streams_know_nothing_of_each_other(said: list[Samples]) -> None:
    samples, _ = talk(said[:2], 1)
    first = segments(samples)
    segments(talk(said[2:], 0.8)[0] * 0.3)
    assert bounds(segments(samples)) == bounds(first)


# --- too much of it ---------------------------------------------------------------------------------------------


def test_a_breathless_talk_is_cut_where_it_is_least_voiced(said: list[Samples]) -> None:
    samples = np.concatenate(said * 9)
    assert len(samples) > 2.2 * N_SAMPLES
    found = segments(samples)
    assert max(len(segment.samples) for segment in found) <= N_SAMPLES
    assert bounds(found)[0][0] == 0
    assert found[-1].end == len(samples)
    assert all(one.end == other.start for one, other in pairwise(found)), "nothing is lost at a cut"
    voice = Silero()(samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME))
    last_third = voice[2 * N_SAMPLES // 3 // FRAME : N_SAMPLES // FRAME]
    assert 2 * N_SAMPLES // 3 - FRAME < found[0].end < N_SAMPLES
    at = found[0].end // FRAME
    assert voice[at - 1 : at + 2].min() <= np.quantile(last_third, 0.02)


def test_memory_holds_only_the_present() -> None:
    chunk = stream([1.0] * 1000)
    segmenter = Segmenter(detector=loudness)
    tracemalloc.start()
    for _ in range(20):
        segmenter.feed(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # the chunk as it is taken apart, the stretch that is growing and the one that is handed out
    assert peak < 4 * 4 * N_SAMPLES
    assert 20 * chunk.nbytes > 5 * peak


@settings(max_examples=100, deadline=None)
@given(
    runs=st.lists(
        st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.95, 1.0]), st.integers(1, 120)), min_size=1, max_size=12
    )
)
def test_nothing_that_is_surely_speech_is_lost_or_told_twice(runs: list[tuple[float, int]]) -> None:
    probabilities = [probability for probability, n_frames in runs for _ in range(n_frames)]
    samples = stream(probabilities)
    rules = VoiceSettings(max_s=3)
    found = segments(samples, segmenter=Segmenter(rules, loudness))
    assert all(one.end <= other.start for one, other in pairwise(found))
    heard = np.zeros(len(samples), bool)
    for segment in found:
        assert 0 < len(segment.samples) <= rules.max_s * SAMPLE_RATE
        np.testing.assert_array_equal(segment.samples, samples[segment.start : segment.end])
        assert np.count_nonzero(segment.samples >= rules.certainty) >= rules.min_speech_s * SAMPLE_RATE
        heard[segment.start : segment.end] = True
    enough = rules.min_speech_s * SAMPLE_RATE / FRAME
    at = 0
    for probability, n_frames in runs:
        # a cut may leave too little on one of its sides
        if probability >= rules.certainty and n_frames >= 2 * enough:
            lost = np.count_nonzero(~heard[at * FRAME : (at + n_frames) * FRAME])
            assert lost <= enough * FRAME
        at += n_frames


# --- no speech --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_silence_hum_noise_clicks_and_tones_are_no_speech(seed: int) -> None:
    assert not segments(nothing_said(random.Random(f"voice-{seed}")))


@pytest.mark.parametrize("level", [0.05, 0.5])
def test_music_is_no_speech(level: float) -> None:
    time = np.arange(20 * SAMPLE_RATE) / SAMPLE_RATE
    chords = [(220, 277, 330), (196, 247, 294), (175, 220, 262), (262, 330, 392)]
    music = np.zeros(len(time))
    for number, chord in enumerate(chords * 5):
        since = np.maximum(time - number, 0)
        struck = (since > 0) * np.exp(-3 * since)
        music += struck * sum(np.sin(2 * np.pi * pitch * k * time) / k for pitch in chord for k in (1, 2, 3))
    assert not segments((level * music / np.abs(music).max()).astype(np.float32))


def test_very_little_is_nothing() -> None:
    for samples in (np.zeros(0, np.float32), np.zeros(1, np.float32), silence(0.02), np.zeros(160_000, np.float32)):
        assert not segments(samples)


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0.3}, {"certainty": 0.4}, {"padding_s": 0.6}, {"pause_s": 0.0}, {"max_s": 1.0}]
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        VoiceSettings(**wrong)
