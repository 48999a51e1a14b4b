"""The section of RESULTS.md on the soak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row

FOUND: Final = ("seen",)  # what a row found; the rest are settings

_HEAD: Final = """\
## Thousands of requests, some of them bad

Clients ask the real server as fast as it answers; there are fewer places than clients, and one request in twenty
misbehaves (`benchmarks/soak.py`). *Growth* is that of the resident memory from the first quarter to the last.
"""
_COLUMNS: Final = (
    "requests",
    "clients",
    "answered",
    "lost",
    "wrong",
    "refused",
    "a refusal takes (p50, p99)",
    "growth",
    "open files before, after",
    "answers / s",
)


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.soak`, at least one.
    """
    return "\n".join([_HEAD, table(list(_COLUMNS), list(map(_line, rows))), "", *map(_misbehaved, rows), ""])


def _line(row: Row) -> list[str]:
    seen = row["seen"]
    counts = [row["requests"], row["clients"], *(seen[name] for name in ("answered", "lost", "wrong", "refused"))]
    refusal, files = seen["refusal_ms"], seen["files"]
    return [
        *(f"{count:,}" for count in counts),
        f"{refusal['p50']:.0f}, {refusal['p99']:.0f} ms",
        f"{seen['memory_mb']['growth']:+.1f} of {seen['memory_mb']['at_first']:.0f} MB",
        f"{files['at_first']}, {files['at_last']}",
        f"{seen['answers_per_s']:.2f}",
    ]


def _misbehaved(row: Row) -> str:
    seen = row["seen"]
    counts = ", ".join(f"`{name}` {n:,}" for name, n in seen["misbehaved"].items())
    return (
        f"- Of {row['requests']:,} requests, {sum(seen['misbehaved'].values()):,} misbehaved (behind each the status "
        f"that it got, or 0 where it did not wait): {counts}. {seen['unexpected']} of these answers were not as they "
        f"should be; the log holds {seen['tracebacks']} tracebacks, and the server exited with {seen['exit_code']}."
    )
