"""Removal of whole layers (section 3.3 of the paper): chosen by search, from the middle, or by block influence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from rich.progress import Progress

from compress import export, model
from compress.checkpoint import Checkpoint
from compress.dataset import Utterance
from compress.errors import RecipeError
from compress.recipe import Recipe
from compress.recipe_stages import Prune
from compress.recovery import Recovery, Steps, clear, discard, renumbered, where
from compress.search import baselines, figure, scorers, workers
from compress.search.bench import Exam
from compress.search.greedy import Round, candidates, search
from compress.search.log import EvaluationLog
from compress.search.scorers import metric_of
from compress.search.workers import Task
from compress.translate import fingerprint
from compress.weights import storage
from compress.weights.architectures import Architecture

ROUNDS_FILE: Final = "rounds.json"
FIGURE_FILE: Final = "rounds.svg"
EVALUATIONS_FILE: Final = "evaluations.jsonl"

_LINEAGE_KEY: Final = {"decoder": "layers", "tower": "tower_layers"}


@dataclass(frozen=True)
class Chosen:
    """What is removed.

    Attributes:
        layers: in order of removal, numbered as in the source.
        rounds: of the search, numbered likewise; empty where there was none.
    """

    layers: tuple[int, ...]
    rounds: tuple[Round, ...] = ()


def check(stage: Prune) -> None:
    """Refuses what cannot be done here, before anything is trained for it.

    Raises:
        RecipeError: a strategy, a mode or a metric that is not there for this part.
    """
    if stage.strategy == "block-influence" and stage.part == "tower":
        raise RecipeError(f"{stage.name}: block influence is the decoder's; for the tower there are greedy and middle")
    if stage.strategy == "greedy":
        scorers.check(stage)


def run(
    stage: Prune,
    recipe: Recipe,
    utterances: Sequence[Utterance],
    source: Checkpoint,
    out: Path,
    work: Path,
    progress: Progress,
    recovery: Recovery | None = None,
) -> Checkpoint:
    """Writes a checkpoint without the layers that are chosen, stored as the source is.

    A run that was killed goes on from the evaluations in `work`; one whose result is in `out` is not repeated.

    Args:
        stage: what to remove, and how it is chosen.
        recipe: whose stage it is: language, prompt, longest translation.
        utterances: the search split.
        source: plain weights.
        out: the checkpoint to make; one already there is replaced only when the new one is whole.
        work: this stage's own directory.
        progress: shows candidates' utterances done and time left.
        recovery: fine-tuning after each removal, for a stage that asks for it.

    Raises:
        RecipeError: the source has no plain weights, fewer candidates than removals, or another search in `work`, or
            see `check`.
        CheckpointError: `out` holds something else, or what was written does not work.
    """
    check(stage)
    if stage.recovery is not None and recovery is None:
        raise RecipeError(f"{stage.name} asks for recovery: it needs training data")
    if source.quantisation is not None or source.adapter is not None:
        raise RecipeError(f"{source.name} is quantised or has an adapter: pruning needs plain weights")
    settings = stage.model_dump(mode="json")
    made_from = storage.digest(settings, fingerprint(recipe, utterances), source.identity)
    if storage.is_made(out, made_from):
        clear(work)
        return Checkpoint.open(out)
    temporary = storage.begin(out)
    if stage.recovery is None or recovery is None:
        chosen = choose(stage, recipe, utterances, source, work, progress)
        _write(source, stage.part, chosen.layers, temporary)
    else:
        chosen = _with_recovery(stage, recipe, utterances, source, temporary, work, progress, recovery)
    rounds = [asdict(one) for one in chosen.rounds]
    (temporary / ROUNDS_FILE).write_text(json.dumps(rounds, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if chosen.rounds:
        figure.draw(chosen.rounds, metric_of(stage, recipe.language), temporary / FIGURE_FILE)
    trial = export.try_out(Checkpoint.open(temporary), utterances[0].audio.load(), recipe.wording)
    facts = _facts(stage, recipe, source, chosen) | {"trial": trial, "made_from": made_from}
    storage.write_lineage(temporary, source.descend(out.name, settings, **facts))
    made = storage.finish(temporary, out)
    clear(work)
    return made


def choose(
    stage: Prune,
    recipe: Recipe,
    utterances: Sequence[Utterance],
    source: Checkpoint,
    work: Path,
    progress: Progress,
) -> Chosen:
    """The layers to remove; evaluations are kept in `work`.

    Raises:
        RecipeError: see `run`.
    """
    n_layers = _n_layers(source, stage.part)
    if stage.strategy == "middle":
        return Chosen(baselines.middle(n_layers, stage.n_remove))
    bar = progress.add_task(stage.name, total=None)
    exam = Exam.of(utterances, recipe.language, recipe.wording, recipe.max_new_tokens)
    task = Task(source.path, stage, exam)
    if stage.strategy == "block-influence":
        influence = scorers.influence(task.bench(lambda n: None))
        return Chosen(baselines.least_influence(influence, stage.n_remove, stage.protected))
    n_open = len(candidates(n_layers, stage.protected))
    n_candidates = sum(n_open - gone for gone in range(stage.n_remove))
    progress.update(bar, total=n_candidates * len(utterances))
    exact = stage.mode != "fast"  # what it gives up may win: no other search can go on from there
    identity = stage.model_dump(mode="json", include={"part", "protected", "comet_model"}) | {
        "exact": exact,
        "metric": metric_of(stage, recipe.language),
        "data": fingerprint(recipe, utterances),
        "source": source.identity,
    }
    log = EvaluationLog(work / EVALUATIONS_FILE, identity)
    rounds = []
    with workers.scoring(task, lambda n: progress.advance(bar, n)) as scorer:
        for one in search(n_layers, stage.n_remove, stage.protected, scorer, log):
            rounds.append(one)
            progress.console.print(f"{len(rounds)}. layer {one.removed}: {identity['metric']} {one.chosen.score:.2f}")
    progress.update(bar, completed=n_candidates * len(utterances))
    return Chosen(tuple(one.removed for one in rounds), tuple(rounds))


def _with_recovery(
    stage: Prune,
    recipe: Recipe,
    utterances: Sequence[Utterance],
    source: Checkpoint,
    directory: Path,
    work: Path,
    progress: Progress,
    recovery: Recovery,
) -> Chosen:
    """One layer at a time, each removal followed by fine-tuning; the last recovered model is the result."""
    n_layers = _n_layers(source, stage.part)
    n_open = len(candidates(n_layers, stage.protected))
    if stage.n_remove > n_open:  # the search would notice in the last rounds
        raise RecipeError(f"cannot remove {stage.n_remove} layers: {n_open} of {n_layers} are candidates")
    settings = stage.model_dump(mode="json", exclude={"n_remove", "workers"})
    of = storage.digest(settings, fingerprint(recipe, utterances), source.identity, recovery.of)
    steps = Steps.begun(work, of, stage.n_remove)
    n_done = len(steps.rounds)
    current = source
    removed: list[int] = []
    left = list(range(n_layers))
    for number in range(1, stage.n_remove + 1):
        pruned, recovered = steps.pruned(number), steps.recovered(number)
        if number > n_done:
            once = stage.model_copy(
                update={"n_remove": 1, "recovery": None, "protected": where(stage.protected, left, n_layers)}
            )
            if not (pruned.parent / EVALUATIONS_FILE).is_file():  # what is there has come of another search
                discard(pruned)
                discard(recovered)
            chosen = choose(once, recipe, utterances, current, pruned.parent, progress)
            if not pruned.is_dir():
                _cut(once, recipe, current, chosen, pruned)
            steps.add(renumbered(chosen.rounds[0], removed, left))
        if number >= n_done and pruned.is_dir():
            discard(steps.recovered(number - 1))
            current = recovery.tune(Checkpoint.open(pruned), recovered, pruned.with_name("recovery"))
            discard(pruned)
        elif number == n_done:
            current = Checkpoint.open(recovered)
        removed.append(steps.rounds[number - 1].removed)
        left.remove(removed[-1])
        progress.console.print(f"{number} of {stage.n_remove} removed and recovered: layer {removed[-1]} of the whole")
    shutil.copytree(current.path, directory, dirs_exist_ok=True)
    return Chosen(tuple(removed), tuple(steps.rounds))


def _cut(stage: Prune, recipe: Recipe, source: Checkpoint, chosen: Chosen, out: Path) -> None:
    """A checkpoint on the way."""
    temporary = storage.begin(out)
    _write(source, stage.part, chosen.layers, temporary)
    facts = _facts(stage, recipe, source, chosen)
    storage.write_lineage(temporary, source.descend(out.name, stage.model_dump(mode="json"), **facts))
    storage.finish(temporary, out)


def _write(source: Checkpoint, part: str, layers: Sequence[int], directory: Path) -> None:
    """The source without some layers, in the dtype in which it is stored."""
    network = source.load_model("cpu", torch.float32)
    model.remove_layers(network, **{part: layers})
    model.save(network, source.load_processor(), directory, source.stored_dtype)


def _facts(stage: Prune, recipe: Recipe, source: Checkpoint, chosen: Chosen) -> dict[str, Any]:
    """What the lineage says of the removal; layers are numbered as in the first model of the line."""
    key = _LINEAGE_KEY[stage.part]
    before = source.lineage.get(key) or list(range(_n_layers(source, stage.part)))
    gone = [before[layer] for layer in chosen.layers]
    facts: dict[str, Any] = {
        key: [layer for layer in before if layer not in gone],
        "removed": gone,
        "language": recipe.language,
        "prompt": recipe.prompt,
        "paper_parity": recipe.data.paper_parity,
    }
    if chosen.rounds:
        facts["search"] = {
            "metric": metric_of(stage, recipe.language),
            "scores": [one.chosen.score for one in chosen.rounds],
        }
    return facts


def _n_layers(source: Checkpoint, part: str) -> int:
    architecture = Architecture.read(source.path)
    return architecture.n_layers if part == "decoder" else architecture.n_tower_layers
