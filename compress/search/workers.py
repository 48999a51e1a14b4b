"""Candidates spread over processes: of this machine, or of a Ray cluster (`RAY_ADDRESS` says which).

Each worker holds the whole model and races the candidates that it is handed, one at a time, against the best that is
scored by then.  So the layers and scores are those of one process; who is given up, and how early, may differ.  A
worker that dies is started anew, and tries its candidate again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.checkpoint import Checkpoint
from compress.errors import RecipeError
from compress.recipe_stages import Prune
from compress.search import scorers
from compress.search.bench import Bench, Exam, encode
from compress.search.greedy import Evaluation, Round, Scorer, best


@dataclass(frozen=True)
class Task:
    """What is searched, in a form that another process can be given.

    Attributes:
        checkpoint: directory of the model, which every worker can read.
        stage: the search.
        exam: what candidates are scored on.
    """

    checkpoint: Path
    stage: Prune
    exam: Exam

    def bench(self, advance: Callable[[int], None]) -> Bench:
        """Loads the model and encodes the clips."""
        source = Checkpoint.open(self.checkpoint)
        model, processor = source.load_for_inference(), source.load_processor()
        return Bench(model, processor, self.exam, encode(model, processor, self.exam.clips), advance)


class Worker:
    """One process's share of a search."""

    def __init__(self, task: Task, n_threads: int) -> None:
        import torch

        torch.set_num_threads(n_threads)
        self._scorer = scorers.scorer(task.bench(lambda n: None), task.stage)

    def evaluate(
        self, removed: tuple[int, ...], layer: int, champion: Evaluation | None, last: Round | None
    ) -> Evaluation:
        """One candidate, given up if it cannot beat the champion."""
        known = {} if champion is None else {champion.layer: champion}
        (found,) = self._scorer.evaluate(removed, [layer], known, last)
        return found


class Workers(Scorer):
    """Scores the candidates of a round in several processes; see `greedy.Scorer`.

    Args:
        task: what is searched.
        n_workers: processes; GPUs, where there are any, are shared out among them.
        advance: told how many candidates' utterances are done.

    Raises:
        RecipeError: Ray is not installed.
    """

    def __init__(self, task: Task, n_workers: int, advance: Callable[[int], None]) -> None:
        ray = _ray()
        n_gpus = min(1, ray.cluster_resources().get("GPU", 0) / n_workers)
        n_threads = max(1, (os.cpu_count() or 1) // n_workers)
        remote = ray.remote(num_cpus=0, num_gpus=n_gpus, max_restarts=-1, max_task_retries=-1)(Worker)
        self._task = ray.put(task)  # held, for a worker that is started anew asks for it again
        self.actors: list[Any] = [remote.remote(self._task, n_threads) for _ in range(n_workers)]
        self._n_utterances = len(task.exam.references)
        self._advance = advance

    def evaluate(
        self, removed: tuple[int, ...], candidates: Sequence[int], known: Mapping[int, Evaluation], last: Round | None
    ) -> Iterator[Evaluation]:
        """Evaluations of all candidates not known yet, as they come."""
        import ray

        scored = [found for found in known.values() if found.score is not None]
        waiting = [layer for layer in candidates if layer not in known]
        if last is not None:  # who fared well a round ago is likely to be the champion
            fared = {found.layer: found.bound for found in last.evaluations}
            waiting.sort(key=lambda layer: (-fared[layer], layer))
        idle = list(self.actors)
        running: dict[Any, Any] = {}
        while waiting or running:
            while waiting and idle:
                actor = idle.pop()
                champion = best(scored) if scored else None
                running[actor.evaluate.remote(removed, waiting.pop(0), champion, last)] = actor
            (done, *_), _ = ray.wait(list(running))
            idle.append(running.pop(done))
            found: Evaluation = ray.get(done)
            if found.score is not None:
                scored.append(found)
            self._advance(self._n_utterances)
            yield found

    def close(self) -> None:
        """Ends the processes."""
        import ray

        for actor in self.actors:
            ray.kill(actor)


@contextmanager
def scoring(task: Task, advance: Callable[[int], None]) -> Iterator[Scorer]:
    """The scorer that a stage asks for, in this process or in several, which end with the block.

    Args:
        task: what is searched.
        advance: told how many candidates' utterances are done.

    Raises:
        RecipeError: a metric that the search does not have, or no Ray for several workers.
    """
    if task.stage.workers == 1:
        yield scorers.scorer(task.bench(advance), task.stage)
        return
    team = Workers(task, task.stage.workers, advance)
    try:
        yield team
    finally:
        team.close()


def _ray() -> Any:
    """Ray, connected to what `RAY_ADDRESS` names, or to this machine alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise RecipeError("several workers need Ray: pip install 'kompakt-st[workers]', or search with one") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    return ray
