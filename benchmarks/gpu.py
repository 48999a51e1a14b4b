"""`python -m benchmarks gpu`: the true architecture with random weights on a GPU: memory, latency, batches, search.

Nothing is downloaded: what a layer costs does not depend on what it has learnt.  Qwen2-Audio-7B is made on the device
in each format (`benchmarks/true_size/model.py`) and measured part by part (`parts.py` beside it), with 32, 24 and 16
decoder layers in turns, so that all see the same clock and temperature:

- `latency`: a clip of 5, 15 and 30 s: first text, each further token, the whole; by this package's decoding, which is
  what is served, and by `generate` on audio padded to 30 s, which is what was published;
- `footprint`: bytes of the weights, and device memory at most while 30 s are translated;
- `batch`: 1 to 64 clips decoded together, until memory is full;
- `encoder`: valid frames against the padded window;
- `search`: one round of the layer search, seconds for each candidate.

Random weights never end a translation, and here they cannot: each has the same number of new tokens.

What to expect.  At batch 1 a token takes no less than the weights' bytes over the memory's bandwidth;
`speed_of_light` is that bound, measured on the same device, over the time it takes.  Near 1, a quarter of the layers
fewer saves nearly a quarter of the time: all but lm_head.  Far below 1 Python and the start of each kernel decide, and
time goes with the number of layers all the same, whatever the format: then 4 bits save memory and no time.  The paper
says that inference is about 20 % and 40 % faster with 8 and 16 of 32 layers gone: `times_as_fast` of about 1.2 to
1.25, and of 1.4 to 1.67, as one takes it for speed or for time.

One command measures it all, in several calls: what stands in the rows for this device already is not measured again
(`--again`), and a part is left for the next call if the longest so far would not fit into `--budget-s`.  Without a
GPU a small model shows that it works, and `--size full-brief` measures the true one in bf16, on one short clip with few
tokens: it takes 19 GB of memory and some minutes.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

import psutil
import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from benchmarks import record, rows
from benchmarks.reports.gpu import FOUND
from benchmarks.true_size import model as true_size
from benchmarks.true_size.bench import SIZES, Bench, problem
from benchmarks.true_size.model import FORMATS, n_weight_bytes
from benchmarks.true_size.parts import PARTS
from compress.errors import RecipeError

BUDGET_S: Final = 420.0
# those that tell nothing about a format, and are measured in the first one only
_OF_ONE_FORMAT: Final = ("encoder", "search")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: all")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS, help="default: all")
    parser.add_argument(
        "--size", choices=["auto", *SIZES], default="auto", help="of the model (default: full on a GPU, else small)"
    )
    parser.add_argument(
        "--budget-s",
        type=float,
        default=BUDGET_S,
        metavar="S",
        help=f"what does not fit is left (default: {BUDGET_S:g})",
    )
    parser.add_argument("--again", action="store_true", help="measure what is measured already, too")


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measures, prints a table a part, and yields its numbers as they are found.

    Raises:
        RecipeError: a flag's value cannot be meant.
    """
    if options.budget_s <= 0:
        raise RecipeError("--budget-s must be more than 0 seconds")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = options.size if options.size != "auto" else "full" if device == "cuda" else "small"
    if size == "full" and device == "cpu":
        raise RecipeError("--size full needs a CUDA device: without one, --size full-brief measures less of the same")
    transformers_logging.disable_progress_bar()
    known = [_settings_of(row) for row in rows.read(options.results / "gpu.jsonl")]
    started, longest_s, left = time.monotonic(), 0.0, []
    console = Console(width=120)
    maker = _Maker(size, device)
    for part, form in _wanted(options.parts, options.formats):
        settings, title = _settings(part, form, size, device), f"{part}, {form}"
        if settings in known and not options.again:
            console.print(f"{title}: measured already")
        elif reason := maker.problem(part, form) or true_size.problem(form, device):
            console.print(f"{title}: left out: {reason}", highlight=False)
        elif longest_s and time.monotonic() - started + longest_s > options.budget_s:
            left.append(title)
        else:
            began = time.monotonic()
            found = _measured(maker, part, form)
            longest_s = max(longest_s, time.monotonic() - began)
            _print(console, found, f"{title}, {size} on {settings['device']['name']}")
            yield settings | {"lines": found}
    if left:
        console.print(f"left for the next call, as the budget of {options.budget_s:g} s is spent: {'; '.join(left)}")


class _Maker:
    """Makes models, one at a time: that of the last part serves the next one, too, if it has the same format."""

    def __init__(self, size: str, device: str) -> None:
        self._name, self._size, self._device = size, SIZES[size], device
        self._form = ""
        self._bench: Bench | None = None

    def bench(self, form: str) -> Bench:
        """A model in that format."""
        if self._bench is None or self._form != form:
            self.drop()
            processor = true_size.processor(self._size.architecture)
            model = true_size.build(self._size.architecture, form, self._device, processor)
            self._form, self._bench = form, Bench(model, processor, self._size, self._device)
        return self._bench

    def problem(self, part: str, form: str) -> str:
        """Why a part cannot be measured on this device; empty where it can."""
        if self._device != "cpu":
            return ""
        held = n_weight_bytes([self._bench.model]) if self._bench is not None else 0
        return problem(self._name, part, form, psutil.virtual_memory().available + held)

    def drop(self) -> None:
        """Gives the model's memory back."""
        self._bench = None
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()


def _wanted(parts: Sequence[str], forms: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Parts by format, all of one format together."""
    for form in FORMATS:
        for part in PARTS:
            if part in parts and form in forms and (part not in _OF_ONE_FORMAT or form == FORMATS[0]):
                yield part, form


def _measured(maker: _Maker, part: str, form: str) -> list[dict[str, Any]]:
    """A part's lines; a single one where the device has too little memory, which is a result as well."""
    try:
        return PARTS[part](maker.bench(form))
    except torch.OutOfMemoryError:
        maker.drop()
        return [{"out_of_memory": True}]


def _settings(part: str, form: str, size: str, device: str) -> dict[str, Any]:
    """What a row depends on but the commit and the versions; as it is read back."""
    chosen = {key: value for key, value in asdict(SIZES[size]).items() if key != "architecture"}
    return json.loads(  # type: ignore[no-any-return]
        json.dumps({
            "part": part,
            "format": form,
            "model": SIZES[size].architecture.name,
            "device": _device(device),
            **chosen,
        })
    )  # fmt: skip


def _settings_of(row: rows.Row) -> dict[str, Any]:
    return {key: value for key, value in rows.measured(row).items() if key not in FOUND}


def _device(device: str) -> dict[str, Any]:
    if device == "cpu":
        return {"name": record.machine()["cpu"], "memory_gb": None}
    properties = torch.cuda.get_device_properties(0)
    return {"name": properties.name, "memory_gb": round(properties.total_memory / 1e9, 1)}


def _print(console: Console, lines: Sequence[dict[str, Any]], title: str) -> None:
    table = Table(*lines[0], title=title, title_justify="left")
    for line in lines:
        table.add_row(*(_cell(line.get(key)) for key in lines[0]))
    console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, dict):  # a spread
        return " ".join(f"{number:g}" for number in value.values())
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
