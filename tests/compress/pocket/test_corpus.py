"""Splits, voices and human recordings of the pocket corpus, drawn as the recipe draws them, only fewer."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from compress.pocket import corpus
from compress.pocket.corpus import (
    HUMAN_DEBIAN_PACKAGE,
    HUMAN_VOICE,
    Clip,
    Split,
    evaluation_clips,
    human_prompts,
    normalise,
    sentences,
    silent_clips,
    split_of,
    training_clips,
)
from compress.pocket.grammar import DOMAINS, Sentence
from compress.pocket.speech import VOICES

SPLITS: tuple[Split, ...] = ("train", "search", "report")
SEEN = {voice.name for voice in VOICES if not voice.held_out}
HELD_OUT = {voice.name for voice in VOICES if voice.held_out}


@cache
def drawn(split: Split) -> list[Sentence]:
    """Enough sentences that an overlap would show."""
    n = {"train": 1500, "search": 300, "report": 300}[split]
    return [sentence for domain in DOMAINS for sentence in sentences(domain, split, n)]


@cache
def train() -> list[Clip]:
    return training_clips(dict.fromkeys(DOMAINS, 300), 20)


@cache
def report() -> list[Clip]:
    return evaluation_clips("report", 40)


# --- splits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), [("train", "search"), ("train", "report"), ("search", "report")])
def test_splits_share_no_sentence_and_no_content(one: Split, other: Split) -> None:
    assert not {normalise(s.en) for s in drawn(one)} & {normalise(s.en) for s in drawn(other)}
    assert not {normalise(s.key) for s in drawn(one)} & {normalise(s.key) for s in drawn(other)}
    # two entries of a lexicon may translate alike ("the star key", "star"), but hardly ever do
    both = {(s.de, s.zh) for s in drawn(one)} & {(s.de, s.zh) for s in drawn(other)}
    assert len(both) <= 0.005 * len(drawn(other))


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_holds_what_its_hash_says_and_nothing_twice(split: Split) -> None:
    found = drawn(split)
    assert {split_of(sentence) for sentence in found} == {split}
    assert len({normalise(sentence.en) for sentence in found}) == len(found)


def test_most_content_is_for_training() -> None:
    n_by_split = Counter(split_of(sentence) for sentence in (*drawn("train"), *drawn("report")))
    assert set(n_by_split) == {"train", "report"}
    hashes = Counter(split_of(Sentence("daily", "", f"content {number}", "", "", "")) for number in range(20_000))
    assert hashes["report"] / 20_000 == pytest.approx(0.10, abs=0.01)
    assert hashes["search"] / 20_000 == pytest.approx(0.04, abs=0.01)


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_frame_dominates(domain: str) -> None:
    frames = Counter(sentence.frame for sentence in sentences(domain, "train", 1500))
    assert len(frames) > 90
    assert frames.most_common(1)[0][1] < 1500 / 20


def test_a_longer_draw_begins_with_what_splits_allow() -> None:
    few = {sentence.en for sentence in sentences("phone", "train", 100)}
    assert len(few) == 100


def test_drawing_follows_the_grammars_alone_whatever_python_hashes() -> None:
    program = """
import hashlib
from compress.pocket.corpus import evaluation_clips, silent_clips, training_clips
clips = training_clips({"talks": 60, "daily": 60, "phone": 60}, 5)
clips += evaluation_clips("search", 10) + evaluation_clips("report", 10) + silent_clips("report", 3)
print(hashlib.sha256(repr(clips).encode()).hexdigest())
"""
    digests = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=Path(corpus.__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "4711")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0].strip()) == hashlib.sha256().digest_size * 2


# --- clips ------------------------------------------------------------------------------------------------------


def test_training_clips_are_varied_and_only_seen_voices_speak() -> None:
    spoken = [clip for clip in train() if clip.en]
    assert {clip.split for clip in train()} == {"train"}
    assert Counter(clip.domain for clip in spoken) == dict.fromkeys(DOMAINS, 300)
    assert {clip.voice for clip in spoken} == SEEN
    assert not any(clip.held_out_voice for clip in train())
    assert all(clip.varied and clip.de and clip.zh for clip in spoken)


def test_clips_without_speech_are_translated_by_nothing() -> None:
    silent = [clip for clip in train() if not clip.en]
    assert len(silent) == 20
    assert {(clip.de, clip.zh, clip.voice, clip.domain) for clip in silent} == {("", "", "none", "")}
    assert not {clip.seed for clip in silent} & {clip.seed for clip in silent_clips("report", 20)}


def test_the_report_is_stratified_by_domain_and_voice() -> None:
    strata = Counter((clip.domain, clip.held_out_voice) for clip in report())
    assert strata == {(domain, held_out): 40 for domain in DOMAINS for held_out in (False, True)}
    for held_out, voices in ((False, SEEN), (True, HELD_OUT)):
        assert {clip.voice for clip in report() if clip.held_out_voice == held_out} == voices
    assert not any(clip.varied for clip in report())
    assert {clip.split for clip in report()} == {"report"}


def test_seen_and_held_out_voices_say_different_sentences() -> None:
    said = [{clip.en for clip in report() if clip.held_out_voice == held_out} for held_out in (False, True)]
    assert not said[0] & said[1]


def test_the_search_split_has_seen_voices_only() -> None:
    clips = evaluation_clips("search", 10)
    assert {clip.voice for clip in clips} <= SEEN
    assert Counter(clip.domain for clip in clips) == dict.fromkeys(DOMAINS, 10)


def test_clips_have_names_and_seeds_of_their_own() -> None:
    clips = [*train(), *report(), *evaluation_clips("search", 10), *silent_clips("report", 5), *human_prompts()]
    assert len({clip.id for clip in clips}) == len(clips)
    spoken = [clip for clip in clips if not clip.path]
    assert len({clip.seed for clip in spoken}) == len(spoken)


# --- human recordings -------------------------------------------------------------------------------------------


def test_human_prompts_are_for_report_only_and_have_references() -> None:
    clips = human_prompts()
    assert len(clips) >= 100
    assert {(clip.split, clip.voice, clip.domain) for clip in clips} == {("report", HUMAN_VOICE, "phone")}
    assert all(clip.en and clip.de and clip.zh and clip.held_out_voice for clip in clips)
    assert len({normalise(clip.en) for clip in clips}) >= 100


@pytest.mark.parametrize("split", SPLITS)
def test_human_sentences_are_in_no_synthetic_split(split: Split) -> None:
    whole = {normalise(clip.en) for clip in human_prompts()}
    parts = {normalise(part) for clip in human_prompts() for part in clip.en.split(".")}
    assert not (whole | parts) & {normalise(sentence.en) for sentence in drawn(split)}


def test_human_recordings_lie_where_debian_puts_them() -> None:
    clips = human_prompts()
    if not any(Path(clip.path).is_file() for clip in clips):
        pytest.skip(f"Debian's {HUMAN_DEBIAN_PACKAGE} is not installed")
    assert not [clip.path for clip in clips if not Path(clip.path).is_file()]


def test_normalising_keeps_what_is_heard() -> None:
    assert normalise("  Don't hang up: press 2, please! ") == "don't hang up press 2 please"
