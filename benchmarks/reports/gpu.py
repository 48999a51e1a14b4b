"""The section of RESULTS.md on the true architecture on GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row
from benchmarks.spread import shown

FOUND: Final = ("lines",)  # what a row found; the rest are settings

Line = dict[str, Any]

_HEAD: Final = """\
## The true architecture

Qwen2-Audio of the true size with random weights, which cost what trained ones cost (`benchmarks/gpu.py`); of a CPU only
ratios are shown. *Ours* is this package's decoding, *published* is `generate` on audio padded to 30 s. *Times as fast*
is over all layers in the same repeat: medians, and quartiles in brackets; the paper says that inference is about 20 %
and 40 % faster with 24 and 16 of 32 layers. *Speed of light* is the bytes that a token has to read over the device's
measured bandwidth, over the time that it takes.
"""
_TITLES: Final = {
    "latency": "One clip at a time",
    "footprint": "Memory",
    "batch": "Several clips at once",
    "encoder": "The encoder on valid frames",
    "search": "One round of the layer search",
}
_MISSING: Final = "–"
_TIMED: Final = (", ms", ", s", " / s")  # how columns end that mean nothing without the device


def _gigabytes(n_bytes: int | None) -> str:
    return _MISSING if n_bytes is None else f"{n_bytes / 1e9:.2f}"


_COLUMNS: Final[dict[str, dict[str, Callable[[Line], str]]]] = {
    "latency": {
        "way": lambda line: str(line["way"]),
        "clip": lambda line: f"{line['clip_s']:g} s",
        "layers": lambda line: str(line["layers"]),
        "first text, ms": lambda line: f"{line['first_ms']:.1f}",
        "a token, ms": lambda line: f"{line['token_ms']:.2f}",
        "whole, ms": lambda line: f"{line['total_ms']:.0f}",
        "times as fast": lambda line: shown(line["times_as_fast"]),
        "speed of light": lambda line: f"{line['speed_of_light']:.1%}",
    },
    "footprint": {
        "layers": lambda line: str(line["layers"]),
        "weights, GB": lambda line: _gigabytes(line["weight_bytes"]),
        "at most, GB": lambda line: _gigabytes(line["peak_bytes"]),
    },
    "batch": {
        "layers": lambda line: str(line["layers"]),
        "clips": lambda line: str(line["rows"]),
        "first text, ms": lambda line: f"{line['first_ms']:.1f}",
        "a step, ms": lambda line: f"{line['step_ms']:.2f}",
        "tokens / s": lambda line: f"{line['tokens_per_s']:,.0f}",
        "clips / s": lambda line: f"{line['clips_per_s']:.2f}",
        "at most, GB": lambda line: _gigabytes(line["peak_bytes"]),
    },
    "encoder": {
        "clip": lambda line: f"{line['clip_s']:g} s",
        "work": lambda line: f"{line['work']:.2f}",
        "encoder": lambda line: _ratio(line["encoder"]),
        "with mel": lambda line: _ratio(line["speech"]),
    },
    "search": {
        "search": lambda line: str(line["way"]),
        "candidates": lambda line: str(line["candidates"]),
        "a candidate, s": lambda line: f"{line['candidate_s']:.3f}",
        "times as fast": lambda line: f"{line['times_as_fast']:.1f}",
    },
}


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.gpu`, at least one.
    """
    parts = [_HEAD]
    for model, device in dict.fromkeys((row["model"], _device(row)) for row in rows):
        parts.append(f"### {model} on {device}\n")
        mine = [row for row in rows if (row["model"], _device(row)) == (model, device)]
        for part, title in _TITLES.items():
            parts += [_table(title, row) for row in mine if row["part"] == part]
    return "\n".join(parts)


def _device(row: Row) -> str:
    memory_gb = row["device"]["memory_gb"]
    return str(row["device"]["name"]) + (f" ({memory_gb:g} GB)" if memory_gb else "")


def _table(title: str, row: Row) -> str:
    on_gpu = row["device"]["memory_gb"] is not None
    columns = {name: cell for name, cell in _COLUMNS[row["part"]].items() if on_gpu or not name.endswith(_TIMED)}
    lines = [[cell(line) for cell in columns.values()] for line in row["lines"] if "out_of_memory" not in line]
    parts = [f"**{title}**, {row['format']}, {row['new_tokens']} new tokens:\n"]
    if lines:
        parts += [table(list(columns), lines), ""]
    parts += [f"{_too_much(line)}\n" for line in row["lines"] if "out_of_memory" in line]
    return "\n".join(parts)


def _too_much(line: Line) -> str:
    where = f" {line['rows']} clips with {line['layers']} layers" if "rows" in line else " the model"
    return f"Too little memory for{where}."


def _ratio(stage: dict[str, float]) -> str:
    return "{ratio:.2f} ({low:.2f}–{high:.2f})".format(**stage)
