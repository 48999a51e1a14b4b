"""Pruning with recovery (section 4.4): on the way, of all models only the last one is kept.

Step NN has a directory of its own, in which `pruned` has just lost its layer, and `recovered` is that one fine-tuned.
Each goes when the next is whole; a file says which layers have gone, and on what evidence.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from compress.checkpoint import Checkpoint
from compress.search.greedy import Evaluation, Round
from compress.weights import storage

STEPS_FILE: Final = "steps.json"


@dataclass(frozen=True)
class Recovery:
    """Fine-tuning of a checkpoint that has just lost a layer.

    Attributes:
        of: another one when its settings or its data change.
        tune: makes a checkpoint of another, given both places and a directory from which a killed run goes on.
    """

    of: str
    tune: Callable[[Checkpoint, Path, Path], Checkpoint]


@dataclass
class Steps:
    """What has been done in a directory, as far as its model is there.

    Attributes:
        work: the directory.
        of: another one when anything changes that the models depend on, but for their number.
        rounds: of the search, numbered as in the whole model; as many as the last model there has lost layers.
    """

    work: Path
    of: str
    rounds: list[Round] = field(default_factory=list)

    @classmethod
    def begun(cls, work: Path, of: str, n_steps: int) -> Steps:
        """Those of `n_steps` that a killed run has left; none of what was made of something else."""
        steps = cls(work, of)
        if not (work / STEPS_FILE).is_file():
            return steps
        content = json.loads((work / STEPS_FILE).read_text(encoding="utf-8"))
        if content["of"] == of:
            n_done = min(n_steps, len(content["rounds"]))
            there = [n for n in range(1, n_done + 1) if steps.pruned(n).is_dir() or steps.recovered(n).is_dir()]
            steps.rounds = [_round(one) for one in content["rounds"][: max(there, default=0)]]
        return steps

    def pruned(self, number: int) -> Path:
        """Where the model lies that has just lost its layer; `number` counts from 1."""
        return self.work / f"{number:02d}" / "pruned"

    def recovered(self, number: int) -> Path:
        """Where the same model lies after its fine-tuning."""
        return self.pruned(number).with_name("recovered")

    def add(self, found: Round) -> None:
        """Keeps a round once its pruned model is whole: a recovered one alone may have come of something else."""
        self.rounds.append(found)
        self.work.mkdir(parents=True, exist_ok=True)
        content = {"of": self.of, "rounds": [asdict(one) for one in self.rounds]}
        storage.write_whole(self.work / STEPS_FILE, json.dumps(content, ensure_ascii=False) + "\n")


def clear(work: Path) -> None:
    """Deletes what was only on the way to a result that is whole; the search's evaluations and the losses stay."""
    (work / STEPS_FILE).unlink(missing_ok=True)
    for place in work.glob("[0-9][0-9]"):
        discard(place / "pruned")
        discard(place / "recovered")


def discard(directory: Path) -> None:
    """Deletes a model; whatever kills the process, it is whole or gone."""
    old = directory.with_name(f"{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.is_dir():
        directory.rename(old)
        shutil.rmtree(old)


def where(protected: Sequence[int], left: Sequence[int], n_layers: int) -> tuple[int, ...]:
    """Where protected layers of the whole model are among those left; what is no layer stays, to be refused."""
    return tuple(left.index(layer % n_layers) if -n_layers <= layer < n_layers else layer for layer in protected)


def renumbered(found: Round, removed: Sequence[int], left: Sequence[int]) -> Round:
    """A first round on a model that has lost layers, as a later round on the whole one."""
    evaluations = [replace(one, layer=left[one.layer]) for one in found.evaluations]
    return Round(tuple(removed), tuple(evaluations), left[found.removed])


def _round(content: dict[str, Any]) -> Round:
    """As it was before it was written."""
    evaluations = [Evaluation(**one | {"hypotheses": tuple(one["hypotheses"])}) for one in content["evaluations"]]
    return Round(tuple(content["before"]), tuple(evaluations), content["removed"])
