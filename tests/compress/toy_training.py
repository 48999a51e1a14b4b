"""Sounds and targets to train a miniature on; run as a module, it is a fine-tuning that tests can kill."""

from __future__ import annotations

import argparse
import json
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
    arguments = parser.parse_args()
    stage = Finetune.model_validate(arguments.stage)
    directory: Path = arguments.directory
    with Progress(disable=True) as progress:
        source = Checkpoint.open(arguments.source)
        finetune.run(stage, recipe(stage), examples(10), source, directory / "out", directory / "work", progress)


if __name__ == "__main__":
    main()
