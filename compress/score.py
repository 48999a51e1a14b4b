"""Scores with signature, interval and split, and what a student keeps of its teacher's.

BLEU, chrF and chrF++ are sacreBLEU's, its bootstrap and paired bootstrap too.  COMET is in `compress/comet.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from sacrebleu.metrics.bleu import BLEU, BLEUScore
from sacrebleu.metrics.chrf import CHRF, CHRFScore
from sacrebleu.significance import PairedTest, Result, _bootstrap_resample

from compress import prompt
from compress.errors import RecipeError
from compress.recipe import Split
from compress.recipe_stages import Metric

TextMetric = Literal["BLEU", "chrF", "chrF++"]

_WORD_ORDER: Final = {"chrF": 0, "chrF++": 2}
_NAME_IN_SACREBLEU: Final[dict[TextMetric, str]] = {"BLEU": "BLEU", "chrF": "chrF2", "chrF++": "chrF2++"}
BOOTSTRAP_SAMPLES: Final = 1000


@dataclass(frozen=True)
class Score:
    """One corpus score.

    Attributes:
        metric: BLEU, chrF, chrF++ or COMET.
        value: 0 to 100; COMET times 100, which has no bounds.
        low, high: 95 % bootstrap interval, as sacreBLEU has it: around the resamples' mean.
        n: sentences scored.
        signature: how it was computed, without which a score means nothing.
        split: train, search or report.
        language: target language code.
        group: which part of the split, such as "daily, seen voices"; empty for all of it.
    """

    metric: Metric
    value: float
    low: float
    high: float
    n: int
    signature: str
    split: Split
    language: str
    group: str = ""

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """A system against a baseline, such as a student against its teacher, on the same sentences.

    Attributes:
        metric: BLEU, chrF, chrF++ or COMET.
        value, baseline: the two scores.
        p_value: of the paired bootstrap (Koehn, 2004): how likely chance alone makes such a difference.
        n, signature, split, language: as in `Score`.
    """

    metric: Metric
    value: float
    baseline: float
    p_value: float
    n: int
    signature: str
    split: Split
    language: str

    @property
    def difference(self) -> float:
        """How much better the system is, in points."""
        return self.value - self.baseline

    def as_json(self) -> dict[str, Any]:
        """The fields by name, and the difference."""
        return asdict(self) | {"difference": self.difference}


@dataclass(frozen=True)
class Retention:
    """What a student keeps of its teacher's scores.

    Attributes:
        percent: the student's score in percent of the teacher's, by metric; None where the teacher's is not positive,
            as COMET's can be: a share of it means nothing.
        differences: student minus teacher in points, by metric.
    """

    percent: Mapping[str, float | None]
    differences: Mapping[str, float]

    @property
    def mean_percent(self) -> float | None:
        """The paper's "97-100 %": the mean over BLEU, chrF (chrF++) and COMET; None where one of them is."""
        known = [one for one in self.percent.values() if one is not None]
        return sum(known) / len(known) if len(known) == len(self.percent) else None


def metrics(language: str) -> tuple[TextMetric, TextMetric]:
    """The paper's choice (section 5): BLEU, and the one that also guides its layer search: chrF++, for Chinese chrF.

    Raises:
        LanguageError: a language that is not offered.
    """
    return ("BLEU", "chrF" if prompt.language(language).code == "zh" else "chrF++")


def scorer(metric: TextMetric, language: str, references: Sequence[str]) -> BLEU | CHRF:
    """SacreBLEU's own object; the references' n-grams are counted once for any number of `corpus_score(texts, None)`.

    BLEU counts words of the tokenizer 13a, in Chinese the characters of `zh`.

    Raises:
        LanguageError: a language that is not offered.
    """
    tokenizer = "zh" if prompt.language(language).code == "zh" else "13a"
    if metric == "BLEU":
        return BLEU(tokenize=tokenizer, references=[references])
    return CHRF(word_order=_WORD_ORDER[metric], references=[references])


def corpus_scores(
    hypotheses: Sequence[str],
    references: Sequence[str],
    language: str,
    split: Split,
    *,
    group: str = "",
    chosen: Sequence[TextMetric] | None = None,
) -> list[Score]:
    """Scores of translations into `language`, one a metric; the paper's two metrics unless others are chosen.

    Raises:
        LanguageError: a language that is not offered.
        RecipeError: no sentences, or not one reference for each.
    """
    refuse_unequal(hypotheses=len(hypotheses), references=len(references))
    found = []
    for metric in chosen or metrics(language):
        one = scorer(metric, language, references)
        result = _with_interval(one, hypotheses)
        found.append(
            Score(
                metric=metric,
                value=float(result.score),
                low=float(result._mean - result._ci),
                high=float(result._mean + result._ci),
                n=len(references),
                signature=str(one.get_signature()),
                split=split,
                language=language,
                group=group,
            )
        )
    return found


def compare(
    hypotheses: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[str],
    language: str,
    split: Split,
    *,
    chosen: Sequence[TextMetric] | None = None,
) -> list[Comparison]:
    """SacreBLEU's paired bootstrap test of a system's translations against a baseline's, one a metric.

    Raises:
        LanguageError: a language that is not offered.
        RecipeError: no sentences, or not one of each kind for each.
    """
    refuse_unequal(hypotheses=len(hypotheses), baseline=len(baseline), references=len(references))
    wanted = tuple(chosen or metrics(language))
    test = PairedTest(
        [("baseline", baseline), ("system", hypotheses)],
        {metric: scorer(metric, language, references) for metric in wanted},
        references=None,  # each scorer has counted them
        test_type="bs",
        n_samples=BOOTSTRAP_SAMPLES,
    )
    signatures, results = test()
    found = []
    for metric in wanted:
        name = _NAME_IN_SACREBLEU[metric]
        before, after = (one for one in results[name] if isinstance(one, Result))
        # sacreBLEU finds a system significantly different from itself: none of its resamples differs by more than 0
        p_value = 1.0 if after.p_value is None or list(hypotheses) == list(baseline) else after.p_value
        found.append(
            Comparison(
                metric=metric,
                value=float(after.score),
                baseline=float(before.score),
                p_value=float(p_value),
                n=len(references),
                signature=str(signatures[name]),
                split=split,
                language=language,
            )
        )
    return found


def retention(student: Mapping[str, float], teacher: Mapping[str, float]) -> Retention:
    """What a student keeps of its teacher's scores, both given by metric.

    Raises:
        RecipeError: not the same metrics on both sides, or none.
    """
    if not student or student.keys() != teacher.keys():
        sides = [", ".join(side) or "none" for side in (student, teacher)]
        raise RecipeError(f"the student has scores in {sides[0]}, the teacher in {sides[1]}: both need the same")
    return Retention(
        percent={name: 100 * student[name] / best if best > 0 else None for name, best in teacher.items()},
        differences={name: student[name] - best for name, best in teacher.items()},
    )


def sentence_chrf(hypothesis: str, reference: str) -> float:
    """ChrF of one sentence, 0 to 100; 0 when either is empty."""
    return float(CHRF().sentence_score(hypothesis, [reference]).score)


def _with_interval(one: BLEU | CHRF, hypotheses: Sequence[str]) -> BLEUScore | CHRFScore:
    """`corpus_score` with a bootstrap interval.

    SacreBLEU 2.6's own mixes Python's 0.0 with NumPy's float32 where a resample scores nothing, and
    Python 3.11's `statistics.mean` refuses the mixture: hence the same steps with plain floats.
    """
    result: BLEUScore | CHRFScore = one.corpus_score(hypotheses, None)
    one.n_bootstrap = BOOTSTRAP_SAMPLES
    stats = one._extract_corpus_statistics(hypotheses, None)
    one.seed, resampled = _bootstrap_resample(stats, one, BOOTSTRAP_SAMPLES)
    for sample in resampled:
        sample.score = float(sample.score)
    result.estimate_ci(resampled)
    return result


def refuse_unequal(**counts: int) -> None:
    """Refuses lists of different or no length; sacreBLEU and COMET would cut the longer to the shorter in silence.

    Raises:
        RecipeError: naming each list and its length.
    """
    if len(set(counts.values())) > 1:
        raise RecipeError("not as many " + " as ".join(f"{name} ({n})" for name, n in counts.items()))
    if 0 in counts.values():
        raise RecipeError("nothing to score: no sentences")
