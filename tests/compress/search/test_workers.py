"""Two workers find what one finds, and a worker that is killed costs no more than its candidate."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import Qwen2AudioProcessor

from compress import model
from compress.errors import RecipeError
from compress.recipe_stages import Prune
from compress.search import workers
from compress.search.greedy import Round
from compress.search.workers import Task, Workers
from tests.compress.search.conftest import N_REMOVE
from tests.compress.search.setting import N_LAYERS, Setting, assert_same, nobody, rounds

ray = pytest.importorskip("ray", reason="this environment is behind requirements/test.txt")


@pytest.fixture(scope="module")
def task(setting: Setting, processor: Qwen2AudioProcessor, tmp_path_factory: pytest.TempPathFactory) -> Task:
    directory: Path = tmp_path_factory.mktemp("workers") / "model"
    model.save(setting.model, processor, directory, setting.model.dtype)
    stage = Prune(n_remove=N_REMOVE, protected=(), workers=2)
    return Task(directory, stage, setting.exam)


@pytest.fixture(scope="module")
def team(task: Task) -> Iterator[Workers]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")  # not a cluster that somebody else has on this machine
        patch.setenv("RAY_worker_niceness", "0")  # Ray's own 15 starves them beside other tests
        made = Workers(task, 2, nobody)
    yield made
    made.close()
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_workers_find_what_one_finds(team: Workers, batched_rounds: list[Round]) -> None:
    assert_same(rounds(team, N_LAYERS, N_REMOVE), batched_rounds)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_worker_costs_its_candidate_and_no_more(team: Workers, batched_rounds: list[Round]) -> None:
    assert_same(rounds(Wounded(team), N_LAYERS, 1), batched_rounds[:1])


def _process(_worker: object) -> int:
    return os.getpid()


class Wounded(Workers):
    """A team of whom one is killed when the first candidate of a round is done."""

    def __init__(self, team: Workers) -> None:
        vars(self).update(vars(team))

    def evaluate(self, *args: object) -> Iterator[object]:  # type: ignore[override]
        for number, one in enumerate(super().evaluate(*args)):  # type: ignore[arg-type]
            if number == 0:
                os.kill(ray.get(self.actors[0].__ray_call__.remote(_process)), signal.SIGKILL)
            yield one


def test_without_ray_several_workers_are_refused(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(RecipeError, match=r"several workers need Ray: pip install 'kompakt-st\[workers\]'"),
        workers.scoring(task, nobody),
    ):
        pass


def test_one_worker_needs_none(task: Task, monkeypatch: pytest.MonkeyPatch, batched_rounds: list[Round]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    alone = replace(task, stage=task.stage.model_copy(update={"workers": 1}))
    with workers.scoring(alone, nobody) as scorer:
        assert rounds(scorer, N_LAYERS, 1)[0].removed == batched_rounds[0].removed
