"""`python -m benchmarks speed-of-light`: how near each step of one request comes to what the machine can do.

A step that has to move B bytes and compute F operations takes no less than max(B / bandwidth, F / rate): the roofline
(Williams, Waterman and Patterson 2009).  `share` is that bound over the time that the step takes, 1 being the speed of
light; `limit` says which of the two decides it.  B and F are counted from the checkpoint's configuration
(`benchmarks/work.py`, which a test holds against torch's own counter); bandwidth and rate are measured just before,
with the same number of threads (`benchmarks/roofs.py`): the better of a copy and a sum over as many bytes as the step
touches, as what fits a cache comes faster, and the best of several square matrix products in the step's dtype.

What to expect.  Encoder and prompt multiply every weight with hundreds of positions, so that operations decide, and a
wide model comes near the rate of a square product, a narrow one does not.  A decode step of one row multiplies every
weight once: 2 operations for each 4 or 2 bytes, far below what a machine computes meanwhile, so bytes decide, and
rows that are decoded together cost nearly nothing until arithmetic does.  The pocket model's layers are so narrow that
Python and the start of each kernel, which no roof knows of, take most of its step; the bound says what they hide.
Decoding audio and log-mel features are a library's scalar work on few bytes, shares near 0 that no request waits for
long.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor
from transformers.utils import logging as transformers_logging

from benchmarks import devices, work
from benchmarks.endless import never_end
from benchmarks.footprint import CLIP
from benchmarks.roofs import MEMORY_BYTES, Roofs, seconds
from benchmarks.spread import quartiles
from benchmarks.work import Work
from compress.audio import SAMPLE_RATE, decode
from compress.checkpoint import POCKET, Checkpoint
from compress.decoding import Decoding, encode, log_mel
from compress.errors import RecipeError
from compress.prompt import LANGUAGES, translation
from compress.reading import likeliest, read
from compress.weights.architectures import Architecture

ROWS: Final = (1, 8, 32)
REPEATS: Final = 15
_DTYPES: Final = (torch.float32, torch.bfloat16)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--model", type=Path, default=POCKET, metavar="DIR", help="checkpoint (default: pocket)")
    devices.add_flag(parser)
    parser.add_argument("--repeats", type=int, default=REPEATS, metavar="N", help=f"of each step (default: {REPEATS})")
    rows = " ".join(map(str, ROWS))
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, metavar="N", help=f"decoded (default: {rows})")
    parser.add_argument(
        "--memory-mb",
        type=int,
        default=MEMORY_BYTES >> 20,
        metavar="N",
        help=f"more than any cache holds (default: {MEMORY_BYTES >> 20})",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints a table, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, or the weights are quantised.
        CheckpointError: see `Checkpoint.open`.
    """
    if min(*options.rows, options.repeats, options.memory_mb) < 1:
        raise RecipeError("--rows, --repeats and --memory-mb must be at least 1")
    device = devices.chosen(options.device)
    checkpoint = Checkpoint.open(options.model)
    if checkpoint.quantisation or checkpoint.adapter:
        raise RecipeError(f"{checkpoint.name} must hold plain weights: the bytes of others are not counted here")
    transformers_logging.disable_progress_bar()
    roofs = Roofs(device, options.memory_mb << 20)
    steps: list[Step] = []
    with torch.inference_mode():
        for dtype in _DTYPES:
            model, processor = checkpoint.load_model(device, dtype), checkpoint.load_processor()
            never_end(model, processor)
            made = _steps(Architecture.read(checkpoint.path), model, processor, options.rows, options.repeats)
            # what comes before the model is the same in every dtype
            steps += [step for step in made if step.in_model or dtype is _DTYPES[0]]
        bounds = [roofs.bound(step.work, step.dtype) for step in steps]
        _measure(steps, options.repeats, device)
    numbers = [step.numbers(*bound) for step, bound in zip(steps, bounds, strict=True)]
    limits = _limits(roofs)
    _print(numbers, limits, f"{checkpoint.name} on {device}, {options.repeats} repeats: share of the speed of light")
    return {
        "model": {"name": checkpoint.name, "bytes": checkpoint.n_bytes},
        "device": device,
        "threads": torch.get_num_threads(),
        "clip_s": round(len(decode(CLIP)) / SAMPLE_RATE, 1),
        "repeats": options.repeats,
        "roofs": limits,
        "steps": numbers,
    }


@dataclass(frozen=True)
class Step:
    """One step of a request, what it cannot do without, and the times that it has taken, in seconds."""

    name: str
    dtype: torch.dtype
    work: Work
    run: Callable[[], object]
    in_model: bool = True
    times_s: list[float] = field(default_factory=list)

    def numbers(self, bound_s: float, limit: str) -> dict[str, Any]:
        """What the row keeps of it."""
        return {
            "step": self.name,
            "dtype": str(self.dtype).removeprefix("torch."),
            "operations": self.work.operations,
            "bytes": self.work.n_bytes,
            "limit": limit,
            "bound_us": round(1e6 * bound_s, 2),
            "took_us": round(1e6 * statistics.median(self.times_s), 2),
            "share": quartiles([bound_s / took_s for took_s in self.times_s], 4),
        }


def _steps(
    architecture: Architecture,
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    rows: Sequence[int],
    repeats: int,
) -> Iterator[Step]:
    """One request's, in their order; those that decode several rows decode the same request several times."""
    file, prompt = CLIP.read_bytes(), translation(next(iter(LANGUAGES)))
    samples = decode(file)
    mel, extractor = log_mel(processor, [samples]), processor.feature_extractor
    audio = encode(model, mel)
    reading = read(model, processor, audio, [prompt])
    (n_audio, n_tokens), dtype, width = (len(audio[0]), reading.n_tokens[0]), model.dtype, model.dtype.itemsize
    hidden = torch.randn(1, architecture.width, device=model.device).to(dtype)
    heard = work.mel(len(samples), extractor.n_fft, architecture.n_mels)
    yield Step("decode audio", dtype, work.decoded_audio(len(file), len(samples)), lambda: decode(file), in_model=False)
    yield Step("log-mel", dtype, heard, lambda: log_mel(processor, [samples]), in_model=False)
    yield Step("encoder", dtype, work.encoder(architecture, mel.n_frames[0], width), lambda: encode(model, mel))
    yield Step(
        "prompt",
        dtype,
        work.prefill(architecture, n_audio, n_tokens - n_audio, width),
        lambda: read(model, processor, audio, [prompt]),
    )
    for n_rows in rows:
        # the first call tells what reading the prompts has found, and every one that is timed shows one token more
        batch = Decoding(model, processor, audio * n_rows, [prompt] * n_rows, max_new_tokens=repeats + 3)
        batch.step()
        n_slots = n_tokens + 1 + repeats // 2
        yield Step(f"decode, batch {n_rows}", dtype, work.decode_step(architecture, n_rows, n_slots, width), batch.step)
    yield Step("lm_head", dtype, work.lm_head(architecture, 1, width), lambda: likeliest(model, hidden))


def _measure(steps: Sequence[Step], repeats: int, device: str) -> None:
    """All steps in turns, in another order each time; the first round only warms up."""
    order = random.Random(0)
    for number in range(repeats + 1):
        for step in order.sample(steps, len(steps)):
            took_s = seconds(step.run, device)
            if number:
                step.times_s.append(took_s)


def _limits(roofs: Roofs) -> dict[str, Any]:
    """What the machine can do at most."""
    rates = {str(dtype).removeprefix("torch."): roofs.rate(dtype) / 1e9 for dtype in _DTYPES}
    return {
        "memory_gb_per_s": _three_digits(roofs.bandwidth() / 1e9),
        "gflop_per_s": {name: _three_digits(rate) for name, rate in rates.items()},
    }


def _three_digits(value: float) -> float:
    return round(value, 2 - math.floor(math.log10(value)))


def _print(steps: Sequence[dict[str, Any]], limits: dict[str, Any], title: str) -> None:
    columns = ["step", "dtype", "MFLOP", "MB", "limit", "bound", "took", "share"]
    table = Table(*columns, title=title, title_justify="left")
    for one in steps:
        table.add_row(
            one["step"],
            one["dtype"],
            f"{one['operations'] / 1e6:,.1f}",
            f"{one['bytes'] / 1e6:,.1f}",
            one["limit"],
            *(f"{one[name] / 1e3:.2f} ms" for name in ("bound_us", "took_us")),
            f"{one['share']['median']:.1%}",
        )
    console = Console(width=120)
    console.print(table)
    rates = ", ".join(f"{name} {rate:g} GFLOP/s" for name, rate in limits["gflop_per_s"].items())
    console.print(f"the machine: {limits['memory_gb_per_s']:g} GB/s of memory; {rates}")
