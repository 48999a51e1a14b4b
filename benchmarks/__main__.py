"""`python -m benchmarks NAME …`: a table, and one line of JSON at the end; `paper` has a line for every result.

Exit codes: 0 measured; 2 the command line cannot be meant, or there is nothing to measure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks import (
    batching,
    encoder,
    fast_search,
    layouts,
    live,
    long_audio,
    paper,
    parity,
    record,
    search,
    soak,
)
from benchmarks.reports import page
from compress.errors import KompaktError


class Program(Protocol):
    """A benchmark."""

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Adds its flags."""

    def run(self, options: argparse.Namespace) -> dict[str, Any] | Iterable[dict[str, Any]]:
        """Measures, and returns the numbers of one row, after a table, or those of any number as they are found."""


PROGRAMS: Final[dict[str, tuple[Program, str]]] = {
    "batching": (batching, "the embedded engine under several clients, against one"),
    "encoder": (encoder, "the encoder on valid frames against the padded window"),
    "fast-search": (fast_search, "how often the approximate layer search chooses what the exact one does"),
    "layouts": (layouts, "what each layout costs in quality, and what it takes on disk"),
    "live": (live, "quality and lag of live translation, and how many speakers fit"),
    "long-audio": (long_audio, "an hour of speech in one request: when its text begins, and what memory it takes"),
    "paper": (paper, "the paper's tables with the pocket model"),
    "parity": (parity, "vLLM against the embedded engine: the same texts from every form of checkpoint"),
    "results": (page, "writes RESULTS.md from all rows"),
    "search": (search, "the layer search as published, batched, and ours"),
    "soak": (soak, "thousands of requests to the server, some of them bad, and what they leave behind"),
}


def main(arguments: Sequence[str]) -> int:
    """Runs a benchmark and keeps its rows; returns the exit code."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--results", type=Path, default=record.RESULTS, metavar="DIR", help="where NAME.jsonl grows")
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="A table, then one line of JSON.")
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, (program, summary) in PROGRAMS.items():
        program.add_flags(names.add_parser(name, help=summary, description=summary, parents=[common]))
    options = parser.parse_args(arguments)
    try:
        found = PROGRAMS[options.name][0].run(options)
        for numbers in [found] if isinstance(found, dict) else found:
            row = record.append(options.results / f"{options.name}.jsonl", arguments, numbers)
            print(json.dumps(row, ensure_ascii=False), flush=True)
    except KompaktError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
