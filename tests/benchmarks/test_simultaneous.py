"""The scorer agrees with what can be told by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simultaneous import Emission, evaluate, hypothesis
from benchmarks.traffic.talk import Sentence, Talk
from compress.audio import SAMPLE_RATE
from compress.errors import RecipeError

GERMAN = ("Guten Morgen, meine Damen und Herren.", "Wir beginnen heute mit dem ersten Kapitel.")
CHINESE = ("女士们先生们早上好。", "我们今天从第一章开始。")


def talk(language: str, references: tuple[str, ...], seconds: int = 4) -> Talk:
    """Sentences of some seconds each, with a second between them."""
    samples = np.zeros(seconds * SAMPLE_RATE, np.float32)
    return Talk(language, tuple(Sentence(i * (seconds + 1), samples, text) for i, text in enumerate(references)))


def test_words_have_the_times_of_their_last_pieces() -> None:
    emissions = [
        Emission("Guten Mor", 1, 1.5),
        Emission("gen,", 2, 2.5),
        Emission(" meine", 3, 3.5),
        Emission(" Damen und ", 4, 4.5),
        Emission("Herren.", 5, 5.5),
    ]
    found = hypothesis(talk("de", GERMAN), emissions)
    assert found["prediction"] == GERMAN[0]
    assert found["delays"] == [1000, 2000, 3000, 4000, 4000, 5000]
    assert found["elapsed"] == [1500, 2500, 3500, 4500, 4500, 5500]
    assert found["source_length"] == 11_000


def test_characters_are_counted_in_chinese() -> None:
    found = hypothesis(talk("zh", CHINESE), [Emission("女士 们", 1), Emission("先", 2)])
    assert (found["prediction"], found["delays"]) == ("女士们先", [1000, 1000, 1000, 2000])
    assert "elapsed" not in found


@pytest.mark.parametrize(("language", "references"), [("de", GERMAN), ("zh", CHINESE)])
def test_a_perfect_text_scores_100_with_the_lag_it_has(language: str, references: tuple[str, ...]) -> None:
    one = talk(language, references)
    emissions = [
        Emission(text + " ", each.start_s + 2, each.start_s + 3)
        for each, text in zip(one.sentences, references, strict=True)
    ]
    found = evaluate(one, emissions)
    bleu, chrf = found["scores"]
    assert (bleu["metric"], chrf["metric"], bleu["n"]) == ("BLEU", "chrF", 2)
    assert bleu["value"] == pytest.approx(100)
    assert f"tok:{'zh' if language == 'zh' else '13a'}" in bleu["signature"]
    # all n words of a sentence of 4 s come after 2 s; an ideal interpreter says the i-th after 4 i / n
    units = [len(text) if language == "zh" else len(text.split()) for text in references]
    expected = sum(2 - 4 * (n - 1) / 2 / n for n in units) / len(units)
    assert found["yaal_cu_s"] == pytest.approx(expected, abs=0.001)
    assert found["yaal_ca_s"] == pytest.approx(expected + 1, abs=0.001)


def test_what_is_missing_costs_quality() -> None:
    one = talk("de", GERMAN)
    found = evaluate(one, [Emission(GERMAN[0], 2)])
    assert found["scores"][0]["value"] < 60
    assert "yaal_ca_s" not in found


def test_no_text_is_no_score() -> None:
    with pytest.raises(RecipeError, match="no text came"):
        evaluate(talk("de", GERMAN), [Emission("", 1)])
