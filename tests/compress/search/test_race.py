"""The exact search finds what the published one finds: the same layers, scores and words, and who it gives up had lost.

Random models choose every word by a margin that rounding cannot bridge (see `tests.compress.babbler`); the trained one
is as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress.model import decoder_layers
from compress.pocket.corpus import Clip, evaluation_clips
from compress.pocket.sound import speak
from compress.pocket.speech import VOICES
from compress.search.bench import encode
from compress.search.greedy import Round, is_beaten
from compress.search.metrics import Bleu, Chrf
from tests.compress import babbler
from tests.compress.pocket.test_speech import missing
from tests.compress.search.conftest import CLIPS, N_REMOVE
from tests.compress.search.setting import N_LAYERS, Setting, assert_same, babbling, rounds

ALL = list(range(N_LAYERS))


# --- the same as one by one -------------------------------------------------------------------------------------


def test_exact_finds_what_naive_finds(setting: Setting, naive_rounds: list[Round]) -> None:
    assert_same(rounds(setting.race(), N_LAYERS, N_REMOVE), naive_rounds)


@pytest.mark.parametrize("keep_bytes", [0, 100_000, 1 << 30])
def test_room_for_states_changes_nothing(keep_bytes: int, setting: Setting, batched_rounds: list[Round]) -> None:
    assert_same(rounds(setting.race(keep_bytes=keep_bytes), N_LAYERS, N_REMOVE), batched_rounds)


@pytest.mark.parametrize("limit", [1, 3, 9])
def test_the_limit_is_that_of_one_by_one(limit: int, setting: Setting) -> None:
    """Shorter translations are beginnings of the longer ones, whose margins are known."""
    short = replace(setting, limit=limit)
    assert_same(rounds(short.race(), N_LAYERS, 1), rounds(short.batched(), N_LAYERS, 1))


def test_protected_layers_are_never_taken_out(setting: Setting, batched_rounds: list[Round]) -> None:
    protected = (batched_rounds[0].removed, -1)
    found = rounds(setting.race(), N_LAYERS, 1, protected)
    assert_same(found, rounds(setting.batched(), N_LAYERS, 1, protected))
    assert {one.layer for one in found[0].evaluations} == set(ALL) - {protected[0], N_LAYERS - 1}


def test_without_words_in_common_chrf_goes_by_characters(setting: Setting) -> None:
    metric = Chrf(setting.references, word_order=0)
    found = rounds(setting.race(metric), N_LAYERS, 1)
    assert_same(found, rounds(setting.batched(metric), N_LAYERS, 1))


def test_a_metric_without_bounds_scores_every_candidate(setting: Setting) -> None:
    metric = Bleu(setting.references, "13a")
    told: list[int] = []
    found = rounds(setting.race(metric, told.append), N_LAYERS, 1)
    assert found == rounds(setting.batched(metric), N_LAYERS, 1)
    assert sum(told) == N_LAYERS * len(CLIPS)


def test_the_model_is_as_it_was(setting: Setting) -> None:
    before = {name: weight.clone() for name, weight in setting.model.state_dict().items()}
    layers: list[Any] = list(decoder_layers(setting.model))
    rounds(setting.race(), N_LAYERS, 2)
    after = setting.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in after.items())
    assert list(decoder_layers(setting.model)) == layers
    assert [layer.self_attn.layer_idx for layer in layers] == ALL
    assert setting.translations() == setting.references


# --- candidates that are given up -------------------------------------------------------------------------------


def test_what_cannot_win_is_not_read_to_the_end(processor: Qwen2AudioProcessor) -> None:
    """A layer that does nothing is the one to remove: what is wrong somewhere has lost before the last chunk."""

    def make(seed: int) -> Setting:
        model = babbler.build(processor, seed)
        babbler.silence(model, {2})
        # long clips: three fill a chunk of 2,048 slots
        lengths = [620, 600, 680, 610, 640, 670, 630, 650]
        audio = list(torch.randn(sum(lengths), babbler.D_MODEL).split(lengths))
        return Setting(model, processor, audio, [""] * len(audio))

    setting, wanted = babbling(make, n_remove=2)
    assert wanted[0].removed == 2
    told: list[int] = []
    evaluations = list(setting.race(advance=told.append).evaluate((), ALL, {}, None))
    by_layer = {one.layer: one for one in evaluations}
    assert by_layer[2] == wanted[0].chosen
    assert by_layer[2].score == 100.0
    hopeless = [one for one in evaluations if one.score is None]
    assert len(hopeless) >= 2, "layers that the model misses"
    for one in hopeless:
        assert None in one.hypotheses
        assert is_beaten(one.bound, one.layer, by_layer[2])
    assert sum(told) < N_LAYERS * len(setting.audio)
    assert_same(rounds(setting.race(), N_LAYERS, 2), wanted)


def test_a_tie_goes_to_the_lower_layer_whoever_is_scored_first(processor: Qwen2AudioProcessor) -> None:
    """Two layers do nothing."""

    def make(seed: int) -> Setting:
        model = babbler.build(processor, seed)
        babbler.silence(model, {1, 3})
        return Setting(model, processor, encode(model, processor, CLIPS), [""] * len(CLIPS), CLIPS)

    setting, wanted = babbling(make, n_remove=1)
    by_layer = {one.layer: one for one in wanted[0].evaluations}
    assert by_layer[1].score == by_layer[3].score == 100.0
    assert wanted[0].removed == 1
    race = setting.race()
    assert_same(rounds(race, N_LAYERS, 1), wanted)
    found = {one.layer: one for one in race.evaluate((), ALL, {3: by_layer[3]}, None)}
    assert found.keys() == {0, 1, 2, 4}
    assert found[1] == by_layer[1]
    found = {one.layer: one for one in race.evaluate((), ALL, {1: by_layer[1]}, None)}
    assert found[3].score in (None, 100.0)
    assert is_beaten(found[3].bound, 3, by_layer[1])


# --- the fast mode -----------------------------------------------------------------------------------------------


def test_fast_scores_few_and_chooses_the_best_of_them(setting: Setting, batched_rounds: list[Round]) -> None:
    told: list[int] = []
    found = list(setting.race(advance=told.append, fast=True).evaluate((), ALL, {}, None))
    assert {one.layer for one in found} == set(ALL)
    by_layer = {one.layer: one for one in batched_rounds[0].evaluations}
    scored = [one for one in found if one.score is not None]
    assert len(scored) == 1
    assert scored == [by_layer[scored[0].layer]]
    # of six clips in chunks of two, five candidates read the first two, two the next, one the last
    assert sum(told) == 2 * (5 + 2 + 1)
    for one in found:
        for text, end in zip(one.hypotheses, by_layer[one.layer].hypotheses, strict=True):
            assert text in (None, end)


def test_a_killed_fast_search_gives_up_whom_it_would_have_given_up(setting: Setting) -> None:
    whole = list(setting.race(fast=True).evaluate((), ALL, {}, None))
    for n_known in range(1, len(whole)):
        known = {one.layer: one for one in whole[:n_known]}
        rest = list(setting.race(fast=True).evaluate((), ALL, known, None))
        assert rest == whole[n_known:]


# --- resumption -------------------------------------------------------------------------------------------------


def test_only_what_is_not_known_is_evaluated(setting: Setting, batched_rounds: list[Round]) -> None:
    """Whatever is known: the winner, losers, or one that an earlier run gave up."""
    first = batched_rounds[0]
    by_layer = {one.layer: one for one in first.evaluations}
    losers = [layer for layer in ALL if layer != first.removed]
    given_up = replace(by_layer[losers[0]], score=None)
    for known in (
        {first.removed: first.chosen},
        {losers[0]: by_layer[losers[0]], losers[1]: by_layer[losers[1]]},
        {losers[0]: given_up, first.removed: first.chosen},
    ):
        found = list(setting.race().evaluate((), ALL, known, None))
        assert {one.layer for one in found} == set(ALL) - known.keys()
        evaluations = tuple(sorted([*found, *known.values()], key=lambda one: one.layer))
        assert_same([Round((), evaluations, first.removed)], [first])
    assert list(setting.race().evaluate((), ALL, by_layer, None)) == []


# --- the trained model ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoken() -> list[Clip]:
    """Eight report clips by the seen voices that are installed."""
    mute = {voice.name for voice in VOICES if missing(voice)}
    clips = [clip for clip in evaluation_clips("report", 8) if not clip.held_out_voice and clip.voice not in mute]
    if not clips:
        pytest.skip("no synthesiser of a seen voice is installed")
    return clips[:: max(1, len(clips) // 8)][:8]


@pytest.mark.slow
@pytest.mark.parametrize(("language", "n_remove"), [("de", 2), ("zh", 1)])
def test_exact_finds_the_same_on_the_pocket_model(
    language: str,
    n_remove: int,
    spoken: list[Clip],
    pocket: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
) -> None:
    sounds = [speak(clip) for clip in spoken]
    references = [str(getattr(clip, language)) for clip in spoken]
    setting = Setting(
        pocket, processor, encode(pocket, processor, sounds), references, sounds, language=language, limit=40
    )
    n_layers = len(decoder_layers(pocket))
    wanted = rounds(setting.batched(), n_layers, n_remove, (0, -1))
    assert_same(rounds(setting.race(), n_layers, n_remove, (0, -1)), wanted)
    # the published way takes its time: the chosen layer, and the worst
    first = wanted[0]
    worst = min(first.evaluations, key=lambda one: one.bound)
    assert worst.bound < first.chosen.bound
    for one in (first.chosen, worst):
        assert list(setting.naive().evaluate((), [one.layer], {}, None)) == [one]
