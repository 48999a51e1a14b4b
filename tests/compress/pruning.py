"""A model whose layers are removed, what is asked of it, and what is left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from rich.progress import Progress
from torch import Tensor
from transformers import Qwen2AudioProcessor

from compress import model, prune
from compress.checkpoint import Checkpoint
from compress.dataset import Utterance
from compress.prune import EVALUATIONS_FILE
from compress.recipe import Data, Recipe
from compress.recipe_stages import Prune
from compress.recovery import Recovery
from compress.search.bench import encode
from compress.search.greedy import Round
from compress.weights import storage
from tests.compress import babbler, narrow
from tests.compress.search.setting import LIMIT, Setting, babbling
from tests.compress.toy_training import Sound

N_REMOVE: Final = 2
N_UTTERANCES: Final = 4
# of the model that the source was pruned from
LAYERS: Final = [0, 2, 3, 5, 7]
TOWER_LAYERS: Final = [1, 4]


@cache
def searched(processor: Qwen2AudioProcessor) -> tuple[Setting, list[Round]]:
    """A model that says every word by a wide margin, and what scoring every candidate finds in it, none protected."""
    clips = [Sound(i).load() for i in range(N_UTTERANCES)]

    def make(seed: int) -> Setting:
        made = babbler.build(processor, seed)
        return Setting(made, processor, encode(made, processor, clips), [""] * len(clips), clips)

    return babbling(make, N_REMOVE)


def write(setting: Setting, directory: Path) -> Checkpoint:
    """The model on disk, in fp32, so that nothing is rounded on the way."""
    model.save(setting.model, setting.processor, directory)
    storage.write_lineage(directory, {"name": "teacher", "layers": LAYERS, "tower_layers": TOWER_LAYERS})
    return Checkpoint.open(directory)


def stage(**settings: Any) -> Prune:
    return Prune.model_validate({"stage": "prune", "n_remove": N_REMOVE, "protected": [], **settings})


def middle(**settings: Any) -> Prune:
    return Prune.model_validate({"stage": "prune", "strategy": "middle", "n_remove": 1, **settings})


def utterances(references: Sequence[str]) -> list[Utterance]:
    return [Utterance(f"utterance {i}", Sound(i), reference) for i, reference in enumerate(references)]


def run(
    settings: Prune,
    source: Checkpoint,
    directory: Path,
    listed: Sequence[Utterance],
    progress: Progress | None = None,
    recovery: Recovery | None = None,
) -> Checkpoint:
    data = Data(source="pocket", domain="talks")
    recipe = Recipe(name="toy", model="toy", language="de", data=data, stages=(settings,), max_new_tokens=LIMIT)
    shown = progress or Progress(disable=True)
    return prune.run(settings, recipe, listed, source, directory / "out", directory / "work", shown, recovery)


def evaluations(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "work" / EVALUATIONS_FILE).read_text().split("\n")
    return [json.loads(line) for line in lines[1:-1]]


def assert_kept(made: Checkpoint, source: Checkpoint, kept: list[int], part: str = "decoder") -> None:
    """Weights are the source's to the bit: of one part those of some layers, of the others all."""
    before = {"decoder": "language_model.model.layers.", "tower": "audio_tower.layers."}[part]
    found, whole = narrow.tensors(made.path), narrow.tensors(source.path)
    expected: dict[str, Tensor] = {}
    for name, tensor in whole.items():
        number, _, rest = name.removeprefix(before).partition(".")
        if not name.startswith(before):
            expected[name] = tensor
        elif int(number) in kept:
            expected[f"{before}{kept.index(int(number))}.{rest}"] = tensor
    narrow.assert_same_bits(found, expected)
