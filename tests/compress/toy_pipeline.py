"""A recipe of all stages that takes seconds: a small random model, and sounds on disk in the user's own format.

Run as a module, it carries the recipe out in processes that are killed and started again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from rich.console import Console
from rich.progress import Progress
from transformers import Qwen2AudioProcessor

from compress import recipe as recipes
from compress.audio import SAMPLE_RATE
from compress.pipeline import Pipeline, Result
from tests.compress import narrow
from tests.compress.conftest import sound
from tests.compress.containers import encode
from tests.compress.toy_training import TARGETS

N_BY_SPLIT: Final = {"train": 5, "search": 3, "report": 3}

_BRIEF: Final = {
    "epochs": 1,
    "batch_size": 2,
    "learning_rate": 0.001,
    "save_every": 1,
    "master_weights": "fp32-only",
}
_MIX: Final = {"in_domain": 1, "distilled": 2}
STAGES: Final[list[dict[str, Any]]] = [
    {"stage": "finetune", "frozen": ["tower"], "optimisation": _BRIEF},
    {"stage": "prune", "n_remove": 1, "protected": []},
    {"stage": "distill", "teacher": "finetune"},
    {"stage": "prune", "name": "prune-more", "n_remove": 1, "protected": [], "recovery": _BRIEF},
    {"stage": "finetune", "name": "recover", "mix": _MIX, "optimisation": _BRIEF},
    {"stage": "qlora", "rank": 8, "modules": "decoder", "mix": _MIX, "optimisation": _BRIEF},
    {"stage": "export"},
]
# those that make a checkpoint
NAMES: Final = ["finetune", "prune", "prune-more", "recover", "qlora", "export"]


def write(directory: Path, processor: Qwen2AudioProcessor) -> Path:
    """Writes model, sounds, manifest and recipe; returns the recipe's file."""
    source = narrow.checkpoint(processor, directory / "narrow")
    content = {
        "name": "toy",
        "about": "all stages in a minute",
        "model": str(source.path),
        "language": "de",
        "max_new_tokens": 8,
        "data": {"source": "manifest", "path": str(write_data(directory / "data"))},
        "stages": STAGES,
    }
    file = directory / "toy.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def write_data(directory: Path) -> Path:
    """Eleven sounds in three splits; returns the manifest."""
    directory.mkdir()
    splits = [split for split, n in N_BY_SPLIT.items() for _ in range(n)]
    rows = [
        {
            "id": f"u{i}",
            "audio": f"{i}.wav",
            "translation": f"{i}. {TARGETS[i % len(TARGETS)]}",
            "transcript": f"Sentence {i}.",
            "split": split,
        }
        for i, split in enumerate(splits)
    ]
    for i, row in enumerate(rows):
        samples = sound(0.3 + 0.1 * (i % 5), i).astype(np.float64)
        (directory / row["audio"]).write_bytes(encode(samples[None], SAMPLE_RATE, "wav"))
    manifest = directory / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def pipeline(file: Path, work: Path, settings: Sequence[str] = ()) -> tuple[Pipeline, io.StringIO]:
    """The recipe with changes, about to be carried out, and what is printed on the way."""
    printed = io.StringIO()
    progress = Progress(console=Console(file=printed, width=200), disable=True)
    return Pipeline(recipes.load(file, settings), work, progress), printed


def carry_out(file: Path, work: Path, again: Sequence[str] = (), settings: Sequence[str] = ()) -> list[Result]:
    return pipeline(file, work, settings)[0].run(again)


def main() -> None:
    """Carries the recipe out in one piece, then in another directory in lives of some shares of that time each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("whole", type=Path)
    parser.add_argument("killed", type=Path)
    parser.add_argument("shares", type=float, nargs="+")
    arguments = parser.parse_args()
    began = time.monotonic()
    _live(arguments.recipe, arguments.whole)
    duration_s = time.monotonic() - began
    for share in arguments.shares:
        _live(arguments.recipe, arguments.killed, share * duration_s)
    _live(arguments.recipe, arguments.killed)


def _live(file: Path, work: Path, span_s: float | None = None) -> None:
    """Carries the recipe out in a process of its own, which is killed unless it is done in time.

    It is forked, so that what takes longest, the imports, is done once; this process computes nothing itself.
    """
    child = os.fork()
    if not child:
        carry_out(file, work)
        os._exit(0)
    if span_s is not None:
        time.sleep(span_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended in ([0] if span_s is None else [0, -signal.SIGKILL]), ended


if __name__ == "__main__":
    # what the stages import only when they need it
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401

    main()
