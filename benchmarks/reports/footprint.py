"""The section of RESULTS.md on what checkpoints take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row
from benchmarks.spread import shown

FOUND: Final = ("checkpoints", "planned", "repeats")  # what a row found; the rest are settings

_HEAD: Final = """\
## What checkpoints take

Each start is that of a new process (`benchmarks/footprint.py`): times over those of the first checkpoint in the same
repeat, medians, and quartiles in brackets. *Memory* is what the process needed above torch and transformers, at most.
With 4-bit weights, bitsandbytes and peft are part of loading and of memory, and a CPU unpacks them at every token.
"""
_PLANNED: Final = """\
Files of Qwen2-Audio-7B, planned from its configuration alone, beside the paper's figures; *stored* elements are its
"Params". *Compact* is its 4-bit model with all that is not 4-bit in bf16 and not in fp32.
"""
_MISSING: Final = "–"


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.footprint`, at least one.
    """
    return "\n".join([_HEAD, *map(_measured, rows), _PLANNED, _planned(rows[-1])])


def _measured(row: Row) -> str:
    lines = [
        [
            one["name"],
            _layers(one),
            one["format"] + (" and adapter" if one["adapter"] else ""),
            f"{one['parameters']:,}",
            f"{one['stored_elements']:,}",
            f"{one['bytes'] / 1e6:.1f}",
            *(shown(one[name]["ratio"]) for name in ("load", "first", "second")),
            f"{one['grown_mb']['median']:.0f} MB",
        ]
        for one in row["checkpoints"]
    ]
    title = (
        f"{row['repeats']} starts each, then the first {row['new_tokens']} tokens of a clip of "
        f"{row['clip']['seconds']:g} s, twice:\n"
    )
    columns = ["checkpoint", "layers", "format", "parameters", "stored", "MB", "load", "first request", "second"]
    return "\n".join([title, table([*columns, "memory"], lines), ""])


def _planned(row: Row) -> str:
    whole = row["planned"][0]["bytes"]
    lines = [
        [
            _layers(one),
            one["layout"],
            f"{one['stored_elements'] / 1e9:.2f}",
            f"{one['bytes'] / 1e9:.2f}",
            *((f"{value:.2f}" if value else _MISSING) for value in _papers(one)),
            f"{1 - one['bytes'] / whole:.1%}",
        ]
        for one in row["planned"]
    ]
    columns = ["layers", "layout", "stored, B", "GB", "paper's B", "paper's GB", "smaller"]
    return "\n".join([table(columns, lines), ""])


def _layers(one: dict[str, Any]) -> str:
    return "{tower}/{decoder}".format(**one["layers"])


def _papers(one: dict[str, Any]) -> tuple[float | None, float | None]:
    return (one["paper"]["params"], one["paper"]["storage"]) if one["paper"] else (None, None)
