"""One candidate at a time: transformers' own `generate` and batches of clips find the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress.model import decoder_layers
from compress.search.bench import encode
from compress.search.greedy import Evaluation, Round
from compress.search.single import OneByOne
from tests.compress import babbler
from tests.compress.search.conftest import CLIPS
from tests.compress.search.setting import N_LAYERS, Setting, babbling, rounds

CANDIDATES = list(range(N_LAYERS))


# --- translations -----------------------------------------------------------------------------------------------


def test_batches_of_encoded_clips_find_what_generate_finds(
    naive_rounds: list[Round], batched_rounds: list[Round]
) -> None:
    """The same layers, scores and words of every candidate."""
    assert naive_rounds == batched_rounds
    scores = {one.score for chosen in naive_rounds for one in chosen.evaluations}
    assert len(scores) > len(naive_rounds)


def test_generate_in_batches_finds_what_it_finds_one_by_one(setting: Setting, naive_rounds: list[Round]) -> None:
    assert rounds(setting.plain(), N_LAYERS, 1) == naive_rounds[:1]


def test_candidates_in_the_tower_are_encoded_anew(processor: Qwen2AudioProcessor) -> None:
    clips = CLIPS[:4]

    def make(seed: int) -> Setting:
        model = babbler.build(processor, seed)
        return Setting(model, processor, encode(model, processor, clips), [""] * len(clips), clips)

    setting, wanted = babbling(make, n_remove=1, part="tower")
    assert rounds(setting.naive("tower"), babbler.N_TOWER_LAYERS, 1) == wanted
    assert any(list(one.hypotheses) != setting.references for one in wanted[0].evaluations)


@pytest.mark.parametrize("limit", [1, 3])
def test_a_translation_is_no_longer_than_allowed(limit: int, setting: Setting) -> None:
    short = replace(setting, limit=limit)
    (one,) = short.naive().evaluate((), [0], {}, None)
    assert [one] == list(short.batched().evaluate((), [0], {}, None))
    (whole,) = setting.batched().evaluate((), [0], {}, None)
    for text, longer in zip(one.hypotheses, whole.hypotheses, strict=True):
        assert text is not None
        assert longer is not None
        # the cap may fall within a character
        assert longer.startswith(text.rstrip("\ufffd").rstrip())
    assert one.hypotheses != whole.hypotheses


def test_progress_is_told_utterance_by_utterance(setting: Setting, batched_rounds: list[Round]) -> None:
    one_by_one: list[int] = []
    at_once: list[int] = []
    wanted = [batched_rounds[0].evaluations[3]]
    assert list(setting.naive(advance=one_by_one.append).evaluate((), [3], {}, None)) == wanted
    assert list(setting.batched(advance=at_once.append).evaluate((), [3], {}, None)) == wanted
    assert one_by_one == [1] * len(CLIPS)
    assert at_once == [len(CLIPS)]


# --- candidates -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """A metric over "translations" that say which layers are missing."""

    by_missing: Mapping[str, float]

    def scores(self, systems: Sequence[Sequence[str]]) -> list[float]:
        return [self.by_missing.get(missing, 0.0) for (missing,) in systems]

    def losses(self, hypotheses: Sequence[str]) -> list[float]:
        return [0.0] * len(hypotheses)

    def bound(self, hypotheses: Sequence[str | None], beginnings: Mapping[int, str]) -> float:
        del hypotheses, beginnings
        return math.inf


def one_by_one(model: Qwen2AudioForConditionalGeneration, scores: Mapping[str, float]) -> OneByOne:
    whole: list[Any] = list(decoder_layers(model))

    def missing() -> list[str]:
        left: list[Any] = list(decoder_layers(model))
        return [" ".join(str(i) for i, layer in enumerate(whole) if all(layer is not other for other in left))]

    return OneByOne(model, "decoder", missing, Scores(scores))


def test_each_candidate_is_missing_beside_what_is_gone(setting: Setting) -> None:
    scorer = one_by_one(setting.model, {"0 2": 30.0, "2 3": 20.126, "2 4": 10.0})
    known = {1: Evaluation(1, 40.0, 40.0, ("1 2",))}
    assert list(scorer.evaluate((2,), [0, 1, 3, 4], known, None)) == [
        Evaluation(0, 30.0, 30.0, ("0 2",)),
        Evaluation(3, 20.13, 20.13, ("2 3",)),
        Evaluation(4, 10.0, 10.0, ("2 4",)),
    ]


def test_scores_that_are_equal_in_hundredths_tie(setting: Setting) -> None:
    scorer = one_by_one(setting.model, {"1": 50.001, "3": 50.004, "4": 49.994, "1 4": 7.0, "1 3": 6.99})
    assert [one.removed for one in rounds(scorer, N_LAYERS, 2)] == [1, 4]


def test_the_model_is_whole_again_after_each_candidate(setting: Setting) -> None:
    layers: list[Any] = list(decoder_layers(setting.model))
    for _ in setting.batched().evaluate((), [1, 3], {}, None):
        assert_whole(setting, layers)
    evaluations = replace(setting.batched(), translate=give_in).evaluate((), [1], {}, None)
    with pytest.raises(ZeroDivisionError):
        next(evaluations)
    assert_whole(setting, layers)
    assert setting.translations() == setting.references


def give_in() -> list[str]:
    raise ZeroDivisionError


def assert_whole(setting: Setting, layers: list[Any]) -> None:
    assert list(decoder_layers(setting.model)) == layers
    assert [layer.self_attn.layer_idx for layer in layers] == CANDIDATES
    text: Any = setting.model.config.text_config
    assert text.num_hidden_layers == N_LAYERS
