"""From a recipe's words to a scorer: which metric, which mode, on which bench."""

from __future__ import annotations

from functools import partial
from typing import Final, Literal

import psutil
import torch

from compress import comet
from compress.recipe_stages import Metric, Prune
from compress.search import single
from compress.search.bench import Bench, Exam
from compress.search.greedy import Scorer
from compress.search.metrics import Bleu, Chrf, Comet, CorpusMetric
from compress.search.network import Network
from compress.search.prompts import Prompts
from compress.search.race import Race

# Of the memory that is free, how much the search may keep, and how much it may decode at once.
_MEMORY_SHARE: Final = 0.25


def check(stage: Prune) -> None:
    """Refuses a search that cannot be made here, before anything is trained for it.

    Raises:
        RecipeError: COMET is asked for, and not installed.
        CheckpointError: no such model of it.
    """
    if stage.metric == "COMET":
        comet.check(stage.comet_model)


def metric_of(stage: Prune, language: str) -> Metric:
    """The metric that a search goes by: the stage's, or else the paper's, chrF++ and for Chinese chrF."""
    return stage.metric or ("chrF" if language == "zh" else "chrF++")


def corpus_metric(stage: Prune, exam: Exam) -> CorpusMetric:
    """The stage's metric, which knows the exam's references.

    Raises:
        RecipeError: COMET without transcripts.
    """
    references, language = exam.references, exam.language
    match metric_of(stage, language):
        case "chrF":
            return Chrf(references, word_order=0)
        case "chrF++":
            return Chrf(references, word_order=2)
        case "BLEU":
            return Bleu(references, "zh" if language == "zh" else "13a")
        case "COMET":
            return Comet(exam.sources, references, stage.comet_model)


def scorer(bench: Bench, stage: Prune) -> Scorer:
    """The scorer that a stage asks for.

    Raises:
        RecipeError: see `check` and `corpus_metric`.
    """
    check(stage)
    metric = corpus_metric(stage, bench.exam)
    if stage.mode == "naive" or stage.part == "tower":
        return one_by_one(bench, stage.part, "naive" if stage.mode == "naive" else "batched", metric)
    return race(bench, metric, fast=stage.mode == "fast")


def one_by_one(
    bench: Bench, part: str, how: Literal["naive", "plain", "batched"], metric: CorpusMetric
) -> single.OneByOne:
    """A search that looks at one candidate at a time."""
    ways = {
        "naive": single.naive,
        "plain": single.plain,
        "batched": single.encoding_anew if part == "tower" else single.batched,
    }
    return single.OneByOne(bench.model, part, partial(ways[how], bench), metric)


def race(
    bench: Bench,
    metric: CorpusMetric,
    keep_bytes: int | None = None,
    *,
    fast: bool = False,
) -> Race:
    """A search over decoder layers in which candidates share their work.

    Args:
        bench: what is translated, by whom.
        metric: of the same utterances.
        keep_bytes: room for hidden states of later rounds; a quarter of the memory that is free if absent.
        fast: approximate.
    """
    free_bytes = int(_free_bytes(bench.model.device) * _MEMORY_SHARE)
    return Race(
        network=Network(bench.model, bench.processor, bench.exam.prompt),
        processor=bench.processor,
        audio=bench.audio,
        metric=metric,
        max_new_tokens=bench.exam.max_new_tokens,
        keep_bytes=free_bytes if keep_bytes is None else keep_bytes,
        decode_bytes=free_bytes,
        advance=bench.advance,
        fast=fast,
    )


def influence(bench: Bench) -> dict[int, float]:
    """Block influence of every decoder layer, summed over the prompts' tokens, see `baselines`."""
    network = Network(bench.model, bench.processor, bench.exam.prompt)
    total: dict[int, float] = {}
    for clip in bench.audio:
        for layer, value in Prompts(network, [clip], keep_bytes=0).influence():
            total[layer] = total.get(layer, 0.0) + value
    return total


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)
