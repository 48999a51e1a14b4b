"""`python -m benchmarks footprint`: what checkpoints take: bytes, time to load, a cold request, memory.

Each start is that of a new process (`benchmarks/cold_start.py`), since a second load in the same one finds libraries
imported, files cached and memory at hand; it loads as the embedded engine does on a CPU, and begins two translations of
the same clip, the first of them cold.  Checkpoints take turns, in an order that turns too, and the first is what the
others are compared with, repeat by repeat: ratios of times, above 1 is slower.  Seconds are kept, but a shared CPU's
say more about its other work.

What to expect.  Loading reads `bytes` once and casts them to fp32, so a plain checkpoint of fewer layers loads in
proportion, plus what a tokenizer costs.  A 4-bit checkpoint is smaller on disk and not faster to load: it waits for
bitsandbytes and peft to be imported, and a CPU unpacks every weight at every token.  `grown_mb` is what the process
needed above torch and transformers: fp32 weights (4 bytes a parameter, 4-bit ones about half a byte), what is being
cast, activations, and those two packages, which are larger than the pocket model.

Beside it stands what files of the true model take, planned from its configuration, with the paper's own figures:
those of its 4-bit models hold embeddings and lm_head in fp32, which `compact` halves.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

import serve
from benchmarks import cold_start, forms, paper_tables, record
from benchmarks.spread import quartiles, shown
from compress.audio import SAMPLE_RATE, decode
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import RecipeError
from compress.weights import size
from compress.weights.architectures import QWEN2_AUDIO_7B, Architecture
from compress.weights.size import Layout

REPEATS: Final = 3
CLIP: Final = Path(serve.__file__).parent / "examples" / "talks_welsh_podcasts.flac"
_TIMES: Final = ("load", "first", "second")
# tower's and decoder's layers, layout: the paper's table and row that give its figures, if any does
_PLANS: Final[dict[tuple[int, int, Layout], tuple[str, str] | None]] = {
    (32, 32, Layout.BF16): ("1", "baseline"),
    (32, 24, Layout.BF16): ("2", "a quarter of the layers pruned"),
    (24, 24, Layout.BF16): ("3", "encoder and decoder"),
    (32, 22, Layout.BF16): ("6", "10 of 32, 4 of 12"),
    (32, 20, Layout.BF16): ("6", "12 of 32, 5 of 12"),
    (32, 16, Layout.BF16): ("6", "16 of 32, 6 of 12"),
    (32, 32, Layout.PAPER): ("1", "QLoRA"),
    (32, 24, Layout.PAPER): ("2", "and QLoRA with out-of-domain data"),
    (32, 22, Layout.PAPER): None,
    (32, 20, Layout.PAPER): None,
    (32, 16, Layout.PAPER): None,
    (32, 32, Layout.COMPACT): None,
    (32, 24, Layout.COMPACT): None,
    (32, 22, Layout.COMPACT): None,
    (32, 20, Layout.COMPACT): None,
    (32, 16, Layout.COMPACT): None,
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument(
        "--model",
        type=Path,
        action="append",
        metavar="DIR",
        help="another checkpoint beside the pocket model, and not its shipped students; may be repeated",
    )
    parser.add_argument("--repeats", type=int, default=REPEATS, metavar="N", help=f"of each (default: {REPEATS})")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints tables, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, or a checkpoint could not be started.
        CheckpointError: see `Checkpoint.open` and `size.measure`.
    """
    if options.repeats < 1:
        raise RecipeError("--repeats must be at least 1")
    checkpoints = [Checkpoint.open(path) for path in (POCKET, *(options.model or sorted(forms.STUDENTS.iterdir())))]
    sizes = [size.measure(one.path) for one in checkpoints]
    starts: list[list[dict[str, float]]] = [[] for _ in checkpoints]
    for repeat in range(options.repeats):
        order = range(len(checkpoints))
        for number in order if repeat % 2 else reversed(order):
            starts[number].append(_started(checkpoints[number]))
    numbers = [
        _numbers(checkpoint, measured, mine, starts[0])
        for checkpoint, measured, mine in zip(checkpoints, sizes, starts, strict=True)
    ]
    plans = [_numbers_of(plan) for plan in planned()]
    _print(numbers, plans)
    return {
        "clip": {"name": CLIP.stem, "seconds": round(len(decode(CLIP)) / SAMPLE_RATE, 1)},
        "new_tokens": cold_start.MAX_NEW_TOKENS,
        "repeats": options.repeats,
        "checkpoints": numbers,
        "planned": plans,
    }


@dataclass(frozen=True)
class Plan:
    """A checkpoint of the true model that need not exist, and what the paper says of it, in billions and gigabytes."""

    n_tower_layers: int
    n_layers: int
    layout: Layout
    size: size.Size
    papers: paper_tables.Row | None


def planned() -> Iterator[Plan]:
    """The true model with fewer and fewer layers, in each layout."""
    rows = {(table.table, row.row): row for table in paper_tables.load().tables for row in table.rows}
    for (n_tower_layers, n_layers, layout), place in _PLANS.items():
        plan = size.plan_size(QWEN2_AUDIO_7B.keep(n_tower_layers, n_layers), layout)
        yield Plan(n_tower_layers, n_layers, layout, plan, rows[place] if place else None)


def _started(checkpoint: Checkpoint) -> dict[str, float]:
    command = [sys.executable, "-m", cold_start.__name__, str(checkpoint.path), str(CLIP)]
    done = subprocess.run(command, cwd=record.ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise RecipeError(f"{checkpoint.name} could not be started: {reason[0]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _numbers(
    checkpoint: Checkpoint,
    measured: size.Size,
    starts: Sequence[dict[str, float]],
    first: Sequence[dict[str, float]],
) -> dict[str, Any]:
    """What the row keeps of a checkpoint; `first` are the starts of the one that it is compared with."""
    architecture = Architecture.read(checkpoint.path)
    found: dict[str, Any] = {
        "name": checkpoint.name,
        "layers": {"tower": architecture.n_tower_layers, "decoder": architecture.n_layers},
        "format": _format(checkpoint),
        "adapter": checkpoint.adapter is not None,
        "parameters": measured.logical_parameters,
        "stored_elements": measured.stored_elements,
        "bytes": measured.tensor_bytes,
        "directory_bytes": measured.directory_bytes,
    }
    for name in _TIMES:
        key = f"{name}_s"
        ratios = [mine[key] / other[key] for mine, other in zip(starts, first, strict=True)]
        found[name] = {"ratio": quartiles(ratios), "s": quartiles([mine[key] for mine in starts])}
    found["grown_mb"] = quartiles([mine["peak_mb"] - mine["before_mb"] for mine in starts], 1)
    found["peak_mb"] = quartiles([mine["peak_mb"] for mine in starts], 1)
    return found


def _format(checkpoint: Checkpoint) -> str:
    method = (checkpoint.quantisation or {}).get("quant_method", "plain")
    return "nf4" if method == "bitsandbytes" else str(method)


def _numbers_of(plan: Plan) -> dict[str, Any]:
    return {
        "layers": {"tower": plan.n_tower_layers, "decoder": plan.n_layers},
        "layout": str(plan.layout),
        "parameters": plan.size.logical_parameters,
        "stored_elements": plan.size.stored_elements,
        "bytes": plan.size.tensor_bytes,
        "paper": {"params": plan.papers.params, "storage": plan.papers.storage} if plan.papers else None,
    }


def _print(checkpoints: Sequence[dict[str, Any]], plans: Sequence[dict[str, Any]]) -> None:
    console = Console(width=120)
    columns = ["checkpoint", "layers", "MB", "load", "first request", "second", "memory, MB"]
    table = Table(*columns, title=f"times those of {checkpoints[0]['name']}: median (quartiles)", title_justify="left")
    for one in checkpoints:
        ratios = [shown(one[name]["ratio"]) for name in _TIMES]
        layers = "{tower}/{decoder}".format(**one["layers"])
        table.add_row(one["name"], layers, f"{one['bytes'] / 1e6:.1f}", *ratios, f"{one['grown_mb']['median']:.0f}")
    console.print(table)
    table = Table("layers", "layout", "B stored", "GB", "paper's B", "GB", title="Qwen2-Audio-7B", title_justify="left")
    for one in plans:
        papers = one["paper"] or {"params": None, "storage": None}
        figures = [one["stored_elements"] / 1e9, one["bytes"] / 1e9, papers["params"], papers["storage"]]
        layers = "{tower}/{decoder}".format(**one["layers"])
        table.add_row(layers, one["layout"], *("" if figure is None else f"{figure:.2f}" for figure in figures))
    console.print(table)
