"""`python -m benchmarks search`: the layer search, as published, as anyone would write it next, and ours.

All of them run greedy rounds over the decoder layers of one model on the same utterances, in one process, one after
the other, and all but the last must choose the same layers:

- `naive`: as the paper's code does it: every candidate translates one utterance at a time with `generate`, which
  pads each to 30 s and encodes it anew;
- `plain`: what anyone would write next: audio encoded once, and `generate` on batches of 32 utterances;
- `batched`: the same batches in this package's decoding loop, from which finished rows are dropped;
- `grouped`: the same, with attention that does not copy keys and values (`compress.attention`);
- `shared`: candidates read their prompts from the layer that they lack upwards, what is below being everybody's, and
  decode together;
- `kept`: and what a candidate read in one round serves it in the next, up to the layer that is gone by then;
- `exact`: and those that cannot win are given up, which is what `compress prune` does;
- `fast`: and those that are not likely to, so it may choose other layers: how many of them are the same is shown.

What to expect.  A candidate of L layers costs its prompts (P tokens an utterance through L layers) and one pass a
token.  Sharing saves half of the prompts, keeping a third of the rest from the second round on, bounds what the losers
had left.  Passes over few rows cost the same as over many until arithmetic decides, so decoding candidates together
saves most where batches are small against the machine.

Given are ratios of times, medians with the lowest and the highest of several repeats, and the work in utterances
decoded.  The order turns from repeat to repeat.  The naive search, which takes minutes, is run once, and may be run on
fewer rounds than the others (`--naive-rounds`), and is then compared on these.  A row is kept of a run of all searches.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from benchmarks.spread import shown
from compress import dataset
from compress.attention import GROUPED
from compress.checkpoint import POCKET, Checkpoint
from compress.dataset import Utterance
from compress.errors import RecipeError
from compress.model import decoder_layers
from compress.prompt import LANGUAGES, translation
from compress.recipe import Data
from compress.recipe_stages import Prune
from compress.search.bench import Bench, Exam, encode
from compress.search.greedy import Round, Scorer, search
from compress.search.log import Forgetful
from compress.search.metrics import CorpusMetric
from compress.search.scorers import corpus_metric, one_by_one, race

MODES: Final = ("naive", "plain", "batched", "grouped", "shared", "kept", "exact", "fast")
# What all others are compared with in tables.
COMPARED: Final = ("naive", "plain", "batched")
# Room for what is decoded together, and none for states of single candidates.
_NOTHING_KEPT: Final = 0
_PROTECTED: Final = (0, -1)
_MAX_NEW_TOKENS: Final = 120


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--model", type=Path, default=POCKET, metavar="DIR", help="checkpoint (default: pocket)")
    parser.add_argument("--domain", choices=["talks", "daily", "phone"], default="daily", help="default: daily")
    parser.add_argument("--language", choices=list(LANGUAGES), default="de", help="default: de")
    parser.add_argument("--utterances", type=int, default=40, metavar="N", help="to search on (default: 40)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="layers to remove (default: 3)")
    parser.add_argument("--naive-rounds", type=int, default=1, metavar="N", help="of the naive search (default: 1)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="of all but the naive one (default: 3)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="default: all")


def run(options: argparse.Namespace) -> dict[str, Any] | Iterable[dict[str, Any]]:
    """Measures, prints a table, and returns the numbers, if all searches were run.

    Raises:
        RecipeError: a flag's value cannot be meant, or two searches chose different layers.
    """
    if min(options.utterances, options.rounds, options.naive_rounds, options.repeats) < 1:
        raise RecipeError("--utterances, --rounds, --naive-rounds and --repeats must be at least 1")
    transformers_logging.disable_progress_bar()
    checkpoint = Checkpoint.open(options.model)
    data = Data(source="pocket", domain=options.domain, n_search=options.utterances)
    utterances = dataset.load(data, options.language, "search").utterances
    bench, stage = bench_of(checkpoint, options.language, utterances), Prune(n_remove=options.rounds)
    found: dict[str, list[Found]] = {mode: [] for mode in options.modes}
    for repeat in range(options.repeats):
        for mode in reversed(options.modes) if repeat % 2 else options.modes:
            n_rounds = min(options.naive_rounds, options.rounds) if mode == "naive" else options.rounds
            if mode != "naive" or repeat == 0:
                found[mode].append(timed(mode, bench, stage.model_copy(update={"n_remove": n_rounds})))
    _check_same(found)
    numbers = _numbers(found)
    _print(numbers, f"{checkpoint.name}, {options.language}, {options.utterances} utterances, {options.rounds} rounds")
    if set(options.modes) != set(MODES):
        return ()
    return {
        "model": {"name": checkpoint.name, "bytes": checkpoint.n_bytes},
        "language": options.language,
        "domain": options.domain,
        "utterances": options.utterances,
        "repeats": options.repeats,
        "modes": numbers,
    }


@dataclass(frozen=True)
class Found:
    """What one search chose, and when each of its rounds was done, in seconds."""

    rounds: tuple[Round, ...]
    done_s: tuple[float, ...]


@dataclass(frozen=True)
class _Unbounded:
    """A metric that gives nobody up."""

    metric: CorpusMetric

    def scores(self, systems: Sequence[Sequence[str]]) -> list[float]:
        return self.metric.scores(systems)

    def losses(self, hypotheses: Sequence[str]) -> list[float]:
        return self.metric.losses(hypotheses)

    def bound(self, hypotheses: Sequence[str | None], beginnings: Mapping[int, str]) -> float:
        del hypotheses, beginnings
        return math.inf


def bench_of(checkpoint: Checkpoint, language: str, utterances: Sequence[Utterance]) -> Bench:
    """The model in fp32 on the CPU, and what it is going to translate, heard and encoded."""
    exam = Exam.of(utterances, language, translation(language), _MAX_NEW_TOKENS)
    model, processor = checkpoint.load_model("cpu", torch.float32), checkpoint.load_processor()
    return Bench(model, processor, exam, encode(model, processor, exam.clips), lambda n: None)


def scorer_of(mode: str, bench: Bench, stage: Prune) -> Scorer:
    """What scores candidates in one of `MODES`."""
    metric = corpus_metric(stage, bench.exam)  # one of its own: it remembers what it has counted
    match mode:
        case "naive" | "plain":
            return one_by_one(bench, stage.part, "naive" if mode == "naive" else "plain", metric)
        case "batched" | "grouped":
            return one_by_one(bench, stage.part, "batched", metric)
        case "shared":
            return race(bench, _Unbounded(metric), keep_bytes=_NOTHING_KEPT)
        case "kept":
            return race(bench, _Unbounded(metric))
        case "fast":
            return race(bench, metric, fast=True)
        case _:
            return race(bench, metric)


def timed(mode: str, bench: Bench, stage: Prune) -> Found:
    """One whole search, by one of `MODES`."""
    n_layers = len(decoder_layers(bench.model))
    bench.model.set_attn_implementation("sdpa" if mode in ("naive", "plain", "batched") else GROUPED)
    started = time.perf_counter()
    rounds, done_s = [], []
    for one in search(n_layers, stage.n_remove, _PROTECTED, scorer_of(mode, bench, stage), Forgetful()):
        rounds.append(one)
        done_s.append(time.perf_counter() - started)
    return Found(tuple(rounds), tuple(done_s))


def _check_same(found: Mapping[str, Sequence[Found]]) -> None:
    """Raises RecipeError where two exact searches disagree: then none of the times would mean anything."""
    exact = [(mode, one) for mode, repeats in found.items() if mode != "fast" for one in repeats]
    _, longest = max(exact, key=lambda each: len(each[1].rounds), default=("", Found((), ())))
    for mode, one in exact:
        for mine, other in zip(one.rounds, longest.rounds, strict=False):
            if (mine.removed, mine.chosen.score) != (other.removed, other.chosen.score):
                raise RecipeError(
                    f"{mode} removed layer {mine.removed} ({mine.chosen.score}), another search "
                    f"layer {other.removed} ({other.chosen.score})"
                )


def _numbers(found: Mapping[str, Sequence[Found]]) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for mode, repeats in found.items():
        evaluations = [each for round_ in repeats[0].rounds for each in round_.evaluations]
        decoded = sum(text is not None for each in evaluations for text in each.hypotheses)
        numbers[mode] = {
            "removed": [round_.removed for round_ in repeats[0].rounds],
            "scores": [round_.chosen.score for round_ in repeats[0].rounds],
            "decoded": decoded,
            "of": sum(len(each.hypotheses) for each in evaluations),
            # what the picture of the search is drawn from: layer, score if it was not given up, bound
            "candidates": [
                [[each.layer, each.score, _finite(each.bound)] for each in round_.evaluations]
                for round_ in repeats[0].rounds
            ],
            "times_faster_than": {name: _ratios(other, repeats) for name, other in found.items() if name != mode},
        }
    return numbers


def _finite(bound: float) -> float | None:
    return round(bound, 2) if math.isfinite(bound) else None


def _ratios(slow: Sequence[Found], fast: Sequence[Found]) -> dict[str, float]:
    """How many times faster, over the rounds that both have run, repeat by repeat."""
    n_rounds = min(len(slow[0].rounds), len(fast[0].rounds))
    n_repeats = max(len(slow), len(fast))  # what was run once is compared with every repeat of the other
    ratios = [
        slow[i % len(slow)].done_s[n_rounds - 1] / fast[i % len(fast)].done_s[n_rounds - 1] for i in range(n_repeats)
    ]
    values = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    return {name: round(value, 2) for name, value in values.items()}


def _print(numbers: dict[str, Any], title: str) -> None:
    table = Table("search", "removed", "score", "decoded", title=title, title_justify="left")
    for other in COMPARED:
        if other in numbers:
            table.add_column(f"times faster than {other}", justify="right")
    for mode, one in numbers.items():
        ratios = [
            shown(one["times_faster_than"][other]) if other != mode else "1" for other in COMPARED if other in numbers
        ]
        cells = [" ".join(map(str, one["removed"])), f"{one['scores'][-1]:.2f}", f"{one['decoded']}/{one['of']}"]
        table.add_row(mode, *cells, *ratios)
    Console(width=120).print(table)
