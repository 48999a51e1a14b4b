"""Sounds and targets to train a miniature on.

Run as a module, it is a fine-tuning that tests can kill; asked to, it starts anew until it is left to end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import Progress

from compress import finetune
from compress.audio import Samples
from compress.checkpoint import Checkpoint
from compress.recipe import Data, Recipe
from compress.recipe_stages import Finetune
from compress.training.collate import TrainingExample
from tests.compress.conftest import sound

TARGETS = ("Hallo Welt!", "Guten Tag.", "Der Zug nach München fährt heute um neun Uhr.", "Nein, danke.", "Wo ist er?")


@dataclass(frozen=True)
class Sound:
    """Sound that needs no file, and counts how often it is asked for."""

    number: int
    loads: list[int] = field(default_factory=list, compare=False)

    @property
    def key(self) -> str:
        return f"sound {self.number}"

    def load(self, max_s: float | None = None) -> Samples:
        self.loads.append(self.number)
        return sound(0.25 + 0.15 * (self.number % 5), self.number)


def examples(n: int) -> list[TrainingExample]:
    """Examples of several lengths."""
    return [TrainingExample(f"example {i}", Sound(i), TARGETS[i % len(TARGETS)]) for i in range(n)]


def recipe(stage: Finetune) -> Recipe:
    return Recipe(name="toy", model="toy", language="de", data=Data(source="pocket", domain="talks"), stages=(stage,))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("stage", type=json.loads)
    parser.add_argument("--lives", type=Path, help="file that gets the number of each process that is started")
    arguments = parser.parse_args()
    stage = Finetune.model_validate(arguments.stage)
    if arguments.lives is None:
        fine_tune(arguments.source, arguments.directory, stage)
        return
    ended = -signal.SIGKILL
    while ended == -signal.SIGKILL:
        # forked, so that what takes longest, the imports, is done once; this process computes nothing itself
        child = os.fork()
        if not child:
            with arguments.lives.open("a") as lives:
                lives.write(f"{os.getpid()}\n")
            fine_tune(arguments.source, arguments.directory, stage)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(ended)


def fine_tune(source: Path, directory: Path, stage: Finetune) -> None:
    with Progress(disable=True) as progress:
        checkpoint = Checkpoint.open(source)
        finetune.run(stage, recipe(stage), examples(10), checkpoint, directory / "out", directory / "work", progress)


if __name__ == "__main__":
    main()
