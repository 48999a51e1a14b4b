"""No bound is below the score that it bounds, whatever an unfinished translation becomes; and it is worth having."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import sacrebleu
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compress.errors import RecipeError
from compress.search.metrics import Bleu, Chrf, Comet

GERMAN = ["der", "Zug", "Züge", "fährt", "um", "9.30", "Uhr!", "(ab)", "„Gleis", "sieben“", "-", "…", "U-Bahn,", "ß"]
CHINESE = "请问火车站在哪里？。，龘 7号a🚆"
WORD_ORDERS = [0, 2]

german = st.lists(st.sampled_from(GERMAN), max_size=10).map(" ".join)
chinese = st.text(CHINESE, max_size=20)
# white space and punctuation in odd places, and bytes that are no text
odd = st.text(" \n\u3000.,!ab", max_size=16)
spoilt = st.binary(max_size=16).map(lambda data: data.decode(errors="replace"))
texts = st.one_of(german, chinese, odd, spoilt)


@dataclass(frozen=True)
class Sentence:
    """A translation on its way.

    Attributes:
        reference: what it should be.
        end: what it becomes.
        known: bytes of it that are known, or None: all of it, and that this is all.
    """

    reference: str
    end: str
    known: int | None

    @property
    def finished(self) -> str | None:
        return self.end if self.known is None else None

    @property
    def beginning(self) -> str:
        """As a tokenizer that works on bytes gives it, white space stripped."""
        return self.end.encode()[: self.known].decode(errors="replace").strip()


@st.composite
def sentences(draw: st.DrawFn) -> Sentence:
    """Ends that have nothing to do with the reference, and ends that begin, end or continue as it does."""
    reference = draw(texts).strip()
    other = draw(texts)
    cut = draw(st.integers(0, len(reference)))
    end = draw(st.sampled_from([other, reference, reference + other, reference[:cut] + other, other + reference[cut:]]))
    end = end.strip()
    return Sentence(reference, end, draw(st.none() | st.integers(0, len(end.encode()))))


corpora = st.lists(sentences(), min_size=1, max_size=6)


def bound_of(metric: Chrf, corpus: list[Sentence]) -> float:
    beginnings = {i: one.beginning for i, one in enumerate(corpus) if one.finished is None}
    return metric.bound([one.finished for one in corpus], beginnings)


# --- the bound --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word_order", WORD_ORDERS)
@settings(max_examples=400, deadline=None)
@given(corpus=corpora)
# an order that only the unfinished sentence can fill: left empty, it leaves the average, and lifts the score by that
@example(corpus=[*[Sentence("abc", "ab", None)] * 3, Sentence("qrs", "qr", 0)])
# the second half of a character, the rest of a word, and the punctuation that it gets
@example(corpus=[Sentence("die Züge fahren", "die Züge fahren", None), Sentence("Züge", "Züge", 2)])
@example(corpus=[Sentence("die Züge fahren", "die Züge fahren", None), Sentence("um 9.30 Uhr", "um 9.30 Uhr!", 6)])
def test_no_completion_scores_more_than_the_bound(word_order: int, corpus: list[Sentence]) -> None:
    metric = Chrf([one.reference for one in corpus], word_order)
    assert bound_of(metric, corpus) >= metric.scores([[one.end for one in corpus]])[0]


@pytest.mark.parametrize("word_order", WORD_ORDERS)
@settings(max_examples=200, deadline=None)
@given(corpus=corpora)
@example(corpus=[Sentence("der Zug", "", None), Sentence("fährt", "", None)])
@example(corpus=[Sentence("", "", None)])
def test_with_everything_finished_the_bound_is_the_score(word_order: int, corpus: list[Sentence]) -> None:
    metric = Chrf([one.reference for one in corpus], word_order)
    ends = [one.end for one in corpus]
    assert metric.bound(ends, {}) == pytest.approx(metric.scores([ends])[0], abs=1e-6)


@pytest.mark.parametrize("word_order", WORD_ORDERS)
@settings(max_examples=200, deadline=None)
@given(corpus=corpora)
def test_what_is_known_of_a_beginning_only_lowers_the_bound(word_order: int, corpus: list[Sentence]) -> None:
    metric = Chrf([one.reference for one in corpus], word_order)
    assert bound_of(metric, corpus) <= metric.bound([one.finished for one in corpus], {})


# --- what it is worth -------------------------------------------------------------------------------------------

REFERENCES = {
    0: ["请问，火车站在哪里？", "我想预订一个房间。", "今天天气很好。", "他明天不来。"],
    2: ["Wo ist der Bahnhof?", "Ich möchte ein Zimmer buchen.", "Heute ist schönes Wetter.", "Er kommt morgen nicht."],
}
WRONG = {0: "洗衣机坏了，怎么办？", 2: "Die Waschmaschine ist leider kaputt."}


@pytest.mark.parametrize("word_order", WORD_ORDERS)
def test_finished_translations_that_are_wrong_bound_the_score(word_order: int) -> None:
    references = REFERENCES[word_order]
    metric = Chrf(references, word_order)
    bounds = [metric.bound([WRONG[word_order]] * n + [None] * (4 - n), {}) for n in range(1, 5)]
    assert bounds == sorted(bounds, reverse=True)
    # what is unfinished is taken for right, and no more
    for n, bound in enumerate(bounds, 1):
        assert bound == pytest.approx(metric.scores([[WRONG[word_order]] * n + references[n:]])[0], abs=1e-6)
    assert bounds[0] < 85
    assert bounds[3] < 30


@pytest.mark.parametrize("word_order", WORD_ORDERS)
def test_a_beginning_that_is_wrong_lowers_the_bound_and_one_that_is_right_does_not(word_order: int) -> None:
    references, wrong = REFERENCES[word_order], WRONG[word_order]
    metric = Chrf(references, word_order)
    hypotheses = [references[0], wrong, None, None]
    unknown = metric.bound(hypotheses, {})
    assert metric.bound(hypotheses, {2: references[2][:4], 3: references[3]}) == unknown
    assert metric.bound(hypotheses, {2: wrong}) < unknown - 3
    assert metric.bound(hypotheses, {2: wrong, 3: wrong}) < metric.bound(hypotheses, {2: wrong}) - 3
    assert metric.bound(hypotheses, {2: wrong[:8]}) > metric.bound(hypotheses, {2: wrong})


def test_what_may_still_change_is_not_held_against_a_beginning() -> None:
    chinese, german = Chrf(REFERENCES[0], 0), Chrf(REFERENCES[2], 2)
    done_zh, done_de = [REFERENCES[0][0], None, None, None], [REFERENCES[2][0], None, None, None]
    # half of a character
    assert chinese.bound(done_zh, {1: "我想\ufffd\ufffd"}) == chinese.bound(done_zh, {})
    # half of a word, and a word that still lacks its full stop
    for beginning in ("Ich möch", "Ich möchte ein Zimmer buchen"):
        assert german.bound(done_de, {1: beginning}) == german.bound(done_de, {})
    # whole characters and words are
    assert chinese.bound(done_zh, {1: "我想洗\ufffd"}) < chinese.bound(done_zh, {})
    assert german.bound(done_de, {1: "Ich mochte ei"}) < german.bound(done_de, {})


@pytest.mark.parametrize("word_order", WORD_ORDERS)
def test_of_nothing_finished_nothing_is_known(word_order: int) -> None:
    metric = Chrf(REFERENCES[word_order], word_order)
    assert metric.bound([None] * 4, {}) == math.inf
    assert metric.bound(["", None, None, None], {1: WRONG[word_order]}) == math.inf


def test_an_order_that_no_reference_has_does_not_keep_the_bound_infinite() -> None:
    assert Chrf(["好的", "不好"], 0).bound(["坏了", None], {}) < 100


# --- the scores -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word_order", WORD_ORDERS)
def test_the_score_is_sacrebleus(word_order: int) -> None:
    references = REFERENCES[word_order]
    hypotheses = [references[0], WRONG[word_order], "", references[3][:5]]
    wanted = sacrebleu.corpus_chrf(hypotheses, [references], word_order=word_order).score
    found = Chrf(references, word_order).scores([hypotheses])[0]
    assert found == pytest.approx(wanted, abs=1e-9)
    assert 20 < found < 80


@pytest.mark.parametrize(("tokenizer", "language"), [("13a", 2), ("zh", 0)])
def test_bleu_is_sacrebleus_and_has_no_bound(tokenizer: str, language: int) -> None:
    references = REFERENCES[language]
    hypotheses = [references[0], references[1], WRONG[language], ""]
    metric = Bleu(references, tokenizer)
    wanted = sacrebleu.corpus_bleu(hypotheses, [references], tokenize=tokenizer).score
    assert metric.scores([hypotheses])[0] == pytest.approx(wanted, abs=1e-9)
    assert wanted > 5
    assert metric.bound([WRONG[language], None, None, None], {}) == math.inf


def test_comet_wants_transcripts_and_has_no_bound() -> None:
    with pytest.raises(RecipeError, match="COMET needs English transcripts: 1 of 2 utterances to search on have none"):
        Comet(["Good morning.", ""], ["Guten Morgen.", "Gute Nacht."], "model.ckpt")
    metric = Comet(["Good morning.", "Good night."], ["Guten Morgen.", "Gute Nacht."], "model.ckpt")
    assert metric.bound(["Guten Morgen.", None], {1: "Gute"}) == math.inf
    assert metric.losses(["Guten Morgen.", ""]) == [0.0, 0.0]
