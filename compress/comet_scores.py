"""Corpus scores and comparisons by COMET, from the scores of sentences that `comet` gives.

Both resample sentences as sacreBLEU does for its metrics, so that intervals and p-values mean the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sacrebleu.significance import _compute_p_value, estimate_ci

from compress.recipe import Split
from compress.score import BOOTSTRAP_SAMPLES, Comparison, Score, refuse_unequal

SEED: Final = 12345  # sacreBLEU's


def corpus_score(values: Sequence[float], signature: str, language: str, split: Split, *, group: str = "") -> Score:
    """The mean of one system's sentence scores, with the same kind of interval as sacreBLEU's.

    Raises:
        RecipeError: no sentences.
    """
    refuse_unequal(scores=len(values))
    mean, half_width = estimate_ci(_resampled_means(values))
    return Score(
        metric="COMET",
        value=float(np.mean(values)),
        low=float(mean - half_width),
        high=float(mean + half_width),
        n=len(values),
        signature=signature,
        split=split,
        language=language,
        group=group,
    )


def compare(
    values: Sequence[float], baseline: Sequence[float], signature: str, language: str, split: Split
) -> Comparison:
    """Paired bootstrap test on sentence scores, in the steps of sacreBLEU's test.

    Raises:
        RecipeError: no sentences, or not two scores for each.
    """
    refuse_unequal(scores=len(values), baseline=len(baseline))
    after, before = float(np.mean(values)), float(np.mean(baseline))
    differences = np.abs(_resampled_means(values) - _resampled_means(baseline))
    p_value = _compute_p_value(differences - differences.mean(), abs(after - before))
    return Comparison(
        metric="COMET",
        value=after,
        baseline=before,
        p_value=1.0 if list(values) == list(baseline) else float(p_value),
        n=len(values),
        signature=signature,
        split=split,
        language=language,
    )


def _resampled_means(values: Sequence[float]) -> NDArray[np.float64]:
    """Means of the bootstrap's resamples, shape (samples,); two systems of one size get the same sentences."""
    chosen = np.random.default_rng(SEED).choice(len(values), size=(BOOTSTRAP_SAMPLES, len(values)), replace=True)
    means: NDArray[np.float64] = np.asarray(values, np.float64)[chosen].mean(axis=1)
    return means
