"""`python -m benchmarks NAME …`: a table, and one line of JSON at the end; `paper` and `gpu` have one for every result.

Exit codes: 0 measured; 2 the command line cannot be meant, or there is nothing to measure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol, cast

from benchmarks import record
from compress.errors import KompaktError


class Program(Protocol):
    """A benchmark."""

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Adds its flags."""

    def run(self, options: argparse.Namespace) -> dict[str, Any] | Iterable[dict[str, Any]]:
        """Measures, and returns the numbers of one row, after a table, or those of any number as they are found."""


# the module of each, imported when it is asked for: what one needs, others do without
PROGRAMS: Final = {
    "batching": ("batching", "the embedded engine under several clients, against one"),
    "cross-check": ("cross_check", "what other people's benchmarks find of our server, over what ours finds"),
    "encoder": ("encoder", "the encoder on valid frames against the padded window"),
    "fast-search": ("fast_search", "how often the approximate layer search chooses what the exact one does"),
    "footprint": ("footprint", "what checkpoints take: bytes, time to load, a cold request, memory"),
    "gpu": ("gpu", "the true architecture with random weights on a GPU: memory, latency, batches, search"),
    "latency": ("latency", "what one caller waits for, by length of the recording and form of the model"),
    "layouts": ("layouts", "what each layout costs in quality, and what it takes on disk"),
    "live": ("live", "quality and lag of live translation, and how many speakers fit"),
    "load": ("load", "what the server gives many callers, how soon, and when it begins to refuse"),
    "long-audio": ("long_audio", "an hour of speech in one request: when its text begins, and what memory it takes"),
    "paper": ("paper", "the paper's tables with the pocket model"),
    "parity": ("parity", "vLLM against the embedded engine: the same texts from every form of checkpoint"),
    "peers": ("peers", "the same recordings through what a user would otherwise run"),
    "quality": ("quality", "what callers of the server get, scored"),
    "replicas": ("replicas", "a server of several is killed under load: what its callers notice"),
    "results": ("reports.page", "writes RESULTS.md from all rows"),
    "search": ("search", "the layer search as published, batched, and ours"),
    "soak": ("soak", "thousands of requests to the server, some of them bad, and what they leave behind"),
    "speed-of-light": ("speed_of_light", "how near each step of a request comes to what the machine can do"),
}


def main(arguments: Sequence[str]) -> int:
    """Runs a benchmark and keeps its rows; returns the exit code."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--results", type=Path, default=record.RESULTS, metavar="DIR", help="where NAME.jsonl grows")
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="A table, then one line of JSON.")
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, (module, summary) in PROGRAMS.items():
        flags = names.add_parser(name, help=summary, description=summary, parents=[common])
        if name in arguments[:1]:
            _program(module).add_flags(flags)
    options = parser.parse_args(arguments)
    try:
        found = _program(PROGRAMS[options.name][0]).run(options)
        for numbers in [found] if isinstance(found, dict) else found:
            row = record.append(options.results / f"{options.name}.jsonl", arguments, numbers)
            print(json.dumps(row, ensure_ascii=False), flush=True)
    except KompaktError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _program(module: str) -> Program:
    return cast(Program, import_module(f"benchmarks.{module}"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
