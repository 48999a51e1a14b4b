"""The pure search, driven by tables of scores."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from compress.errors import RecipeError
from compress.search.greedy import Evaluation, Round, best, candidates, is_beaten, search
from compress.search.log import EvaluationLog, Forgetful

Scores = Callable[[tuple[int, ...], int], float]

# The orders of removal that the paper published for Qwen2-Audio's 32 layers.
GERMAN_CHRF = (13, 3, 20, 9, 29, 1, 19, 27, 7, 26, 15, 18, 10, 17, 14, 30)
CHINESE_CHRF = (7, 25, 3, 4, 29, 15, 26, 20, 24, 5, 10, 9, 27, 28, 18, 13)
GERMAN_COMET = (12, 1, 9, 15, 20, 27, 29, 5)
CHINESE_COMET = (7, 9, 24, 3, 28, 6, 15, 18)
PUBLISHED = [GERMAN_CHRF, CHINESE_CHRF, GERMAN_COMET, CHINESE_COMET]


class KilledError(Exception):
    """Stands for the kill."""


class Table:
    """Scores candidates by a function, and remembers what it was asked.

    Args:
        scores: of a candidate after some removals.
        patience: evaluations after which it is interrupted.
    """

    def __init__(self, scores: Scores, patience: float = math.inf) -> None:
        self._scores = scores
        self._patience = patience
        self.made: list[tuple[tuple[int, ...], int]] = []
        self.lasts: list[Round | None] = []

    def evaluate(
        self, removed: tuple[int, ...], candidates: Sequence[int], known: Mapping[int, Evaluation], last: Round | None
    ) -> Iterator[Evaluation]:
        self.lasts.append(last)
        # in no order that the search could rely on
        for layer in reversed([layer for layer in candidates if layer not in known]):
            if len(self.made) >= self._patience:
                raise KilledError
            self.made.append((removed, layer))
            yield scored(layer, self._scores(removed, layer))


def scored(layer: int, score: float) -> Evaluation:
    return Evaluation(layer, score, score, (f"without {layer}",))


def given_up(layer: int, bound: float) -> Evaluation:
    return Evaluation(layer, None, bound, (None,))


def scores_of(seed: int) -> Scores:
    """Scores that depend on everything that is removed, so that no ranking made once would do; many of them tie."""

    def score(removed: tuple[int, ...], layer: int) -> float:
        return random.Random(repr((seed, sorted((*removed, layer))))).randrange(20) / 4

    return score


def scores_that_force(order: tuple[int, ...]) -> Scores:
    """In every round the next of `order` scores a hundredth more than the best of the others, below zero like COMET."""

    def score(removed: tuple[int, ...], layer: int) -> float:
        if removed == order[: len(removed)] and layer == order[len(removed)]:
            return -9.99
        return -10 - random.Random(repr((removed, layer))).randrange(100) / 100

    return score


def order_of(n_layers: int, n_remove: int, protected: Sequence[int], scorer: Table) -> tuple[int, ...]:
    return tuple(one.removed for one in search(n_layers, n_remove, protected, scorer, Forgetful()))


# --- the order --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", PUBLISHED)
def test_the_published_orders_come_from_scores_that_force_them(order: tuple[int, ...]) -> None:
    assert order_of(32, len(order), (0, -1), Table(scores_that_force(order))) == order


def test_eight_removals_of_32_layers_take_the_papers_212_evaluations() -> None:
    table = Table(scores_that_force(GERMAN_CHRF))
    found = list(search(32, 8, (0, -1), table, Forgetful()))
    assert [len(one.evaluations) for one in found] == list(range(30, 22, -1))
    assert len(table.made) == len(set(table.made)) == 212


def test_a_shorter_search_is_the_beginning_of_a_longer_one() -> None:
    for seed in range(5):
        longest = order_of(12, 10, (0, -1), Table(scores_of(seed)))
        assert sorted(longest) == list(range(1, 11))
        for n_remove in range(10):
            assert order_of(12, n_remove, (0, -1), Table(scores_of(seed))) == longest[:n_remove]


def test_every_round_takes_the_best_the_lowest_among_equals() -> None:
    ties = 0
    for seed in range(20):
        scores = scores_of(seed)
        for one in search(12, 5, (0, -1), Table(scores), Forgetful()):
            by_layer = {layer: scores(one.before, layer) for layer in range(1, 11) if layer not in one.before}
            top = max(by_layer.values())
            equals = [layer for layer, score in by_layer.items() if score == top]
            ties += len(equals) > 1
            assert one.removed == min(equals)
            assert one.chosen == scored(one.removed, top)
            assert one.evaluations == tuple(scored(layer, score) for layer, score in by_layer.items())
    assert ties > 10


def test_a_round_follows_from_the_ones_before() -> None:
    table = Table(scores_of(3))
    found = list(search(8, 4, (), table, Forgetful()))
    assert [one.before for one in found] == [tuple(r.removed for r in found[:i]) for i in range(4)]
    assert table.lasts == [None, *found[:-1]]


# --- candidates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protected", "removed", "wanted"),
    [
        ((), (), [0, 1, 2, 3, 4, 5]),
        ((0, -1), (), [1, 2, 3, 4]),
        ((0, 5), (3,), [1, 2, 4]),
        ((-6, -2, 4), (1, 5), [2, 3]),
        ((0, 1, 2, 3, 4, 5), (), []),
    ],
)
def test_candidates_are_what_is_neither_protected_nor_gone(
    protected: tuple[int, ...], removed: tuple[int, ...], wanted: list[int]
) -> None:
    assert candidates(6, protected, removed) == wanted


def test_a_negative_layer_counts_from_the_end_of_the_whole_model() -> None:
    """Also once layers are gone: the last layer stays the last."""
    for protected in ((0, -1), (0, 7)):
        assert set(order_of(8, 6, protected, Table(lambda removed, layer: float(layer)))) == set(range(1, 7))


@pytest.mark.parametrize(
    ("n_layers", "n_remove", "protected", "complaint"),
    [
        (8, 2, (0, 8), r"protected layers \[8\] are none of the model's 8"),
        (8, 2, (-9, 3, 12), r"protected layers \[-9, 12\] are none of the model's 8"),
        (8, 7, (0, -1), "cannot remove 7 layers: 6 of 8 are candidates"),
        (8, 8, (), "cannot remove 8 of 8 layers"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_scored(
    n_layers: int, n_remove: int, protected: tuple[int, ...], complaint: str
) -> None:
    table = Table(scores_of(0))
    with pytest.raises(RecipeError, match=complaint):
        list(search(n_layers, n_remove, protected, table, Forgetful()))
    assert table.made == []


def test_all_candidates_can_go() -> None:
    assert len(order_of(8, 6, (0, -1), Table(scores_of(0)))) == 6
    assert len(order_of(8, 7, (), Table(scores_of(0)))) == 7


# --- candidates that were given up ------------------------------------------------------------------------------


def test_the_best_is_among_those_with_a_score() -> None:
    assert best([given_up(1, 50.0), scored(4, 40.0), scored(3, 40.0), scored(5, 39.99)]).layer == 3


class GivingUp(Table):
    """Scores the best candidate first and gives all others up."""

    def evaluate(
        self, removed: tuple[int, ...], candidates: Sequence[int], known: Mapping[int, Evaluation], last: Round | None
    ) -> Iterator[Evaluation]:
        found = {one.layer: one for one in super().evaluate(removed, candidates, known, last)}
        champion = best([one for one in (*found.values(), *known.values()) if one.score is not None])
        for layer, one in found.items():
            yield one if layer == champion.layer else given_up(layer, one.bound)


def test_giving_up_what_is_beaten_changes_nothing() -> None:
    for seed in range(5):
        wanted = order_of(10, 6, (0, -1), Table(scores_of(seed)))
        found = list(search(10, 6, (0, -1), GivingUp(scores_of(seed)), Forgetful()))
        assert tuple(one.removed for one in found) == wanted
        assert all([e.layer for e in one.evaluations if e.score is not None] == [one.removed] for one in found)


@pytest.mark.parametrize(
    ("bound", "layer", "wanted"),
    [
        (49.99, 1, True),
        (50.01, 9, False),
        (math.inf, 9, False),
        # a tie goes to the lower layer, as in `best`
        (50.0, 4, True),
        (50.0, 2, False),
        # scores are compared in hundredths
        (50.0049, 4, True),
        (50.0051, 4, False),
        (49.9951, 2, False),
        (49.9949, 2, True),
    ],
)
def test_a_bound_is_compared_as_the_score_would_be(bound: float, layer: int, wanted: bool) -> None:
    champion = scored(3, 50.0)
    assert is_beaten(bound, layer, champion) is wanted
    # what a candidate with exactly that score would have come to
    if math.isfinite(bound):
        assert (best([champion, scored(layer, round(bound, 2))]) == champion) is wanted


# --- resumption -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [0, 1, 5, 6, 7, 13, 17])
def test_an_interrupted_search_goes_on_where_it_stopped(patience: int, tmp_path: Path) -> None:
    """Six, five, four and three candidates: in the first round, at its end, later on."""
    path, identity = tmp_path / "evaluations.jsonl", {"metric": "chrF"}
    whole = Table(scores_of(7))
    wanted = list(search(8, 4, (0, -1), whole, Forgetful()))
    first, second, third = Table(scores_of(7), patience), Table(scores_of(7)), Table(scores_of(7), 0)
    with pytest.raises(KilledError):
        list(search(8, 4, (0, -1), first, EvaluationLog(path, identity)))
    assert list(search(8, 4, (0, -1), second, EvaluationLog(path, identity))) == wanted
    assert len(first.made) == patience
    assert first.made + second.made == whole.made
    # and a third finds everything done
    assert list(search(8, 4, (0, -1), third, EvaluationLog(path, identity))) == wanted


def test_a_longer_search_goes_on_from_a_shorter_one(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    short, long = Table(scores_of(1)), Table(scores_of(1))
    beginning = list(search(8, 2, (0, -1), short, EvaluationLog(path, {})))
    found = list(search(8, 5, (0, -1), long, EvaluationLog(path, {})))
    assert found[:2] == beginning
    assert {len(removed) for removed, _ in long.made} == {2, 3, 4}


def test_an_evaluation_is_kept_before_the_next_is_made(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    kept: list[int] = []

    def score(removed: tuple[int, ...], layer: int) -> float:
        kept.append(len(path.read_text().splitlines()) - 1)
        return float(layer)

    list(itertools.islice(search(6, 2, (), Table(score), EvaluationLog(path, {})), 1))
    assert kept == [0, 1, 2, 3, 4, 5]
