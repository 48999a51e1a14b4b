"""`python -m benchmarks results`: RESULTS.md and its figures, from the rows in `results/` and the paper's own."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks import paper_tables, record, rows
from benchmarks.reports import (
    batching,
    cross_check,
    encoder,
    fast_search,
    figures,
    footprint,
    gpu,
    latency,
    layouts,
    live,
    load,
    long_audio,
    paper,
    parity,
    peers,
    quality,
    replicas,
    search,
    soak,
    speed_of_light,
)
from benchmarks.rows import Row

PAGE: Final = record.RESULTS.with_name("RESULTS.md")
FIGURES: Final = "figures"

_PICTURES: Final = {
    "size-quality": "Size and quality of every stage of the setups; dotted, what nothing smaller beats",
    "callers": "Waiting and throughput as callers grow more",
    "request": "Where the time of one request goes, a sentence of 20 tokens on the bare model",
    "layers": "Scores without each layer, round after round",
}

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
    "quality": quality,
    "peers": peers,
    "latency": latency,
    "load": load,
    "cross-check": cross_check,
    "footprint": footprint,
    "speed-of-light": speed_of_light,
    "gpu": gpu,
    "search": search,
    "fast-search": fast_search,
    "encoder": encoder,
    "batching": batching,
    "parity": parity,
    "layouts": layouts,
    "live": live,
    "long-audio": long_audio,
    "soak": soak,
    "replicas": replicas,
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the program's flags."""
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="default: benchmarks/RESULTS.md")


def run(options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """Writes the page; there are no rows to keep."""
    drawn = draw(options.results, options.page.parent / FIGURES)
    options.page.write_text(render(options.results, drawn), encoding="utf-8")
    print(options.page)
    return ()


def draw(results: Path, folder: Path) -> list[str]:
    """Draws what the page shows.

    Args:
        results: directory of the rows.
        folder: of the figures.

    Returns:
        Names of those whose rows are there.
    """
    papers = rows.by_stage(rows.read(results / "paper.jsonl"))
    loads, searches = (_shown(results, name) for name in ("load", "search"))
    drawn = {
        "size-quality": figures.size_and_quality(papers, folder / "size-quality.svg"),
        "callers": figures.waits_and_callers(loads, folder / "callers.svg"),
        "request": figures.one_request(_shown(results, "speed-of-light"), folder / "request.svg"),
        "layers": figures.layers(searches, folder / "layers.svg"),
    }
    return [name for name, done in drawn.items() if done]


def render(results: Path, drawn: Collection[str] = ()) -> str:
    """The page.

    Args:
        results: directory of the rows.
        drawn: figures that there are.
    """
    papers = rows.by_stage(rows.read(results / "paper.jsonl"))
    shown = {name: found for name in SECTIONS if (found := _shown(results, name))}
    pictures = [f"![{text}]({FIGURES}/{name}.svg)\n" for name, text in _PICTURES.items() if name in drawn]
    parts = [
        _HEAD,
        *pictures,
        paper.render(paper_tables.load(), papers),
        *(SECTIONS[name].render(found) for name, found in shown.items()),
        _circumstances([*papers.values(), *(row for found in shown.values() for row in found)]),
    ]
    return "\n".join(part for part in parts if part)


def _shown(results: Path, name: str) -> list[Row]:
    """The rows of a benchmark that count."""
    return rows.latest(rows.read(results / f"{name}.jsonl"), *SECTIONS[name].FOUND)


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
