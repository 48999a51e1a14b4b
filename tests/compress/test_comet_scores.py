"""Corpus scores by COMET and their comparison, against what the statistics of known distributions say."""

from __future__ import annotations

import numpy as np
import pytest

from compress.comet_scores import compare, corpus_score


def test_a_corpus_score_is_the_mean_with_its_interval() -> None:
    values = np.random.default_rng(0).normal(50, 20, 400)
    found = corpus_score(list(values), "signature", "de", "search", group="talks")
    assert (found.metric, found.n, found.split, found.language, found.group) == ("COMET", 400, "search", "de", "talks")
    assert found.value == pytest.approx(values.mean())
    half_width = 1.96 * values.std() / 400**0.5  # of a mean of so many, which is normal
    assert found.low == pytest.approx(found.value - half_width, abs=0.1 * half_width)
    assert found.high == pytest.approx(found.value + half_width, abs=0.1 * half_width)


def test_comparisons_pair_the_sentences() -> None:
    random = np.random.default_rng(0)
    hard = random.normal(50, 20, 100)  # how hard the sentences are hides a gain of 3, unless they are paired
    baseline, gained = list(hard), list(hard + random.normal(3, 2, 100))
    found = compare(gained, baseline, "signature", "zh", "report")
    assert found.difference == pytest.approx(np.mean(gained) - np.mean(baseline))
    assert found.p_value < 0.01
    shuffled = list(random.permutation(gained))
    assert compare(shuffled, baseline, "signature", "zh", "report").p_value > 0.05
    assert compare(baseline, list(baseline), "signature", "zh", "report").p_value == 1
