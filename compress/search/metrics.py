"""Corpus metrics as the search needs them: a score, and the best that an unfinished candidate can still reach.

chrF averages precision and recall over n-gram orders, each from counts summed over the corpus.  An unfinished
hypothesis can at best end up with every n-gram of its reference matched and none besides, except those that its
beginning already holds and the reference lacks: they stay.  Its counts are then (r + wasted, r, r) for hypothesis,
reference and matches, and any other continuation has at most that precision and at most that recall in every order.
So the corpus score of these counts is an upper bound of the final one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from compress import comet

Counts = NDArray[np.int64]

_HYPOTHESIS, _MATCH = 0, 2  # of chrF's triples; 1 is the reference
# A byte-level beginning may end within a character.
_HALF_CHARACTER: Final = "\ufffd"
# Sums in another order differ by less.
_ROUNDING: Final = 1e-9


class CorpusMetric(Protocol):
    """Scores one corpus, whose references it knows, in percent."""

    def scores(self, systems: Sequence[Sequence[str]]) -> list[float]:
        """The corpus score of each system's translations."""
        ...

    def losses(self, hypotheses: Sequence[str]) -> list[float]:
        """About how much each translation takes away from the best corpus score; all 0 where nothing is known."""
        ...

    def bound(self, hypotheses: Sequence[str | None], beginnings: Mapping[int, str]) -> float:
        """What the score can be at most; infinite where nothing is known.

        Args:
            hypotheses: finished translations, None where unfinished.
            beginnings: what is known of unfinished ones, by number.
        """
        ...


class Chrf:
    """chrF (`word_order` 0) or chrF++ (2)."""

    def __init__(self, references: Sequence[str], word_order: int) -> None:
        self._metric = CHRF(word_order=word_order)
        self._reference_ngrams = self._metric._cache_references([references])
        self._word_order = word_order
        self._known: dict[tuple[int, str], Counts] = {}
        # A reference against itself: all of it matched.
        self._perfect = self._all_counts(references)

    def scores(self, systems: Sequence[Sequence[str]]) -> list[float]:
        """SacreBLEU's corpus scores."""
        return [self._value(self._all_counts(hypotheses).sum(0)) for hypotheses in systems]

    def losses(self, hypotheses: Sequence[str]) -> list[float]:
        """N-grams that are missing, and n-grams too many, of all orders."""
        counts = self._all_counts(hypotheses)
        return [float(n) for n in (counts[..., :_MATCH] - counts[..., _MATCH, None]).sum((1, 2))]

    def bound(self, hypotheses: Sequence[str | None], beginnings: Mapping[int, str]) -> float:
        """See `CorpusMetric`; derived above."""
        total = self._perfect.copy()
        finished = [i for i, text in enumerate(hypotheses) if text is not None]
        for i in finished:
            total[i] = self._counts(i, hypotheses[i] or "")
        # An order without a single n-gram in the hypotheses is left out of chrF's average, which can lift it.
        unsure = (total[finished, :, _HYPOTHESIS].sum(0) == 0) & (self._perfect[..., _HYPOTHESIS].sum(0) > 0)
        if unsure.any() and len(finished) < len(total):
            return math.inf
        for i, beginning in beginnings.items():
            if text := self._stable(beginning):
                counts = self._counts(i, text)
                total[i, :, _HYPOTHESIS] += counts[:, _HYPOTHESIS] - counts[:, _MATCH]
        return self._value(total.sum(0)) + _ROUNDING

    def _stable(self, beginning: str) -> str:
        """The part of a beginning that no continuation changes."""
        text = beginning.rstrip(_HALF_CHARACTER)
        # The last word may grow, and its punctuation is split off only once it is whole.
        return text.rpartition(" ")[0] if self._word_order else text

    def _all_counts(self, hypotheses: Sequence[str]) -> Counts:
        """Of every sentence, shape (sentences, orders, 3)."""
        return np.stack([self._counts(i, text) for i, text in enumerate(hypotheses)])

    def _counts(self, number: int, hypothesis: str) -> Counts:
        """N-grams of hypothesis, reference and matches, shape (orders, 3); candidates often say the same."""
        found = self._known.get((number, hypothesis))
        if found is None:
            stats = self._metric._compute_segment_statistics(hypothesis, self._reference_ngrams[number])
            found = self._known[number, hypothesis] = np.asarray(stats, np.int64).reshape(-1, 3)
        return found

    def _value(self, counts: Counts) -> float:
        return float(self._metric._compute_f_score([int(n) for n in counts.flatten()]))


class Bleu:
    """BLEU with one of sacreBLEU's tokenisers; without a bound, so no candidate is given up."""

    def __init__(self, references: Sequence[str], tokenizer: str) -> None:
        self._metric = BLEU(tokenize=tokenizer)
        self._references = list(references)

    def scores(self, systems: Sequence[Sequence[str]]) -> list[float]:
        """SacreBLEU's corpus scores."""
        return [float(self._metric.corpus_score(texts, [self._references]).score) for texts in systems]

    def losses(self, hypotheses: Sequence[str]) -> list[float]:
        """Unknown: n-grams count over the whole corpus, whose brevity penalty is nobody's own."""
        return [0.0] * len(hypotheses)

    def bound(self, hypotheses: Sequence[str | None], beginnings: Mapping[int, str]) -> float:
        """Unknown: a longer hypothesis elsewhere in the corpus can undo a brevity penalty."""
        del hypotheses, beginnings
        return math.inf


class Comet:
    """COMET; a program of its own scores, so all systems go to it at once.  It has no bound.

    Args:
        sources: what is said, in English.
        references: what it should become.
        model: a name on the hub, or the path of a `.ckpt` file.

    Raises:
        RecipeError: an utterance without a transcript.
    """

    def __init__(self, sources: Sequence[str], references: Sequence[str], model: str) -> None:
        comet.refuse_untranscribed(sources, "utterances to search on")
        self._sources = list(sources)
        self._references = list(references)
        self._model = model

    def scores(self, systems: Sequence[Sequence[str]]) -> list[float]:
        """Means over the sentences, times 100.

        Raises:
            KompaktError: see `comet.score`.
        """
        by_number = {str(number): texts for number, texts in enumerate(systems)}
        found = comet.score(self._sources, by_number, self._references, self._model, gpu=torch.cuda.is_available())
        return [float(np.mean(found[number])) for number in by_number]

    def losses(self, hypotheses: Sequence[str]) -> list[float]:
        """Unknown, and too dear to ask."""
        return [0.0] * len(hypotheses)

    def bound(self, hypotheses: Sequence[str | None], beginnings: Mapping[int, str]) -> float:
        """Unknown: the end of a sentence may change what its beginning is worth."""
        del hypotheses, beginnings
        return math.inf
