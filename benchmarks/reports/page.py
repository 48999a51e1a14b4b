"""`python -m benchmarks results`: RESULTS.md, written from the rows in `results/` and the paper's figures."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks import paper_tables, record, rows
from benchmarks.reports import batching, encoder, fast_search, layouts, live, long_audio, paper, parity, search, soak
from benchmarks.rows import Row

PAGE: Final = record.RESULTS.with_name("RESULTS.md")

_HEAD: Final = """\
# Results

`make results` writes this page from the rows in `benchmarks/results` and the paper's figures in
`benchmarks/paper.yaml`. Of rows that measured the same, the last one counts.
"""


class Section(Protocol):
    """What the page says of one benchmark."""

    @property
    def FOUND(self) -> tuple[str, ...]:  # noqa: N802 -- a constant of a module
        """The keys of a row that hold what was found; the rest are settings."""

    def render(self, rows: Sequence[Row]) -> str:
        """The section of these rows, at least one."""


# in the page's order, by the name that the rows' file has, too
SECTIONS: Final[dict[str, Section]] = {
    "search": search,
    "fast-search": fast_search,
    "encoder": encoder,
    "batching": batching,
    "parity": parity,
    "layouts": layouts,
    "live": live,
    "long-audio": long_audio,
    "soak": soak,
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the program's flags."""
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="default: benchmarks/RESULTS.md")


def run(options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """Writes the page; there are no rows to keep."""
    options.page.write_text(render(options.results), encoding="utf-8")
    print(options.page)
    return ()


def render(results: Path) -> str:
    """The page.

    Args:
        results: directory of the rows.
    """
    papers = rows.by_stage(rows.read(results / "paper.jsonl"))
    shown = {
        name: found
        for name, section in SECTIONS.items()
        if (found := rows.latest(rows.read(results / f"{name}.jsonl"), *section.FOUND))
    }
    parts = [
        _HEAD,
        paper.render(paper_tables.load(), papers),
        *(SECTIONS[name].render(found) for name, found in shown.items()),
        _circumstances([*papers.values(), *(row for found in shown.values() for row in found)]),
    ]
    return "\n".join(part for part in parts if part)


def _circumstances(shown: list[Row]) -> str:
    """With what the rows above were measured, one line each combination."""
    lines = dict.fromkeys(
        f"- `{row['command'].partition(' --')[0]}` at {row['commit'] or 'no commit'}: {_machine(row)}" for row in shown
    )
    return "\n".join(["## Measured with\n", *lines, ""]) if lines else ""


def _machine(row: Row) -> str:
    machine = row["machine"]
    hardware = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    return f"{hardware}; " + ", ".join(f"{name} {version}" for name, version in row["versions"].items())
