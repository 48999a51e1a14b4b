"""`python -m benchmarks NAME …`: a table, and one line of JSON at the end.

Exit codes: 0 measured; 2 the command line cannot be meant, or there is nothing to measure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import encoder, record
from compress.errors import KompaktError


def main(arguments: Sequence[str]) -> int:
    """Runs a benchmark and keeps its row; returns the exit code."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--results", type=Path, default=record.RESULTS, metavar="DIR", help="where NAME.jsonl grows")
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="A table, then one line of JSON.")
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    summary = "the encoder on valid frames against the padded window"
    encoder.add_flags(names.add_parser("encoder", help=summary, description=summary, parents=[common]))
    options = parser.parse_args(arguments)
    try:
        numbers = encoder.run(options)
    except KompaktError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    row = record.append(options.results / f"{options.name}.jsonl", arguments, numbers)
    print(json.dumps(row, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
