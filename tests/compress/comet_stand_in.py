"""An environment with a stand-in for COMET's program: the same arguments, the same answer, in a moment.

A sentence's score is how many of the reference's words the translation has, at most 1; `score` gives it times 100.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_PROGRAM = """\
#!{python} -I
import json, sys
from argparse import ArgumentParser
from pathlib import Path

if "-c" in sys.argv:  # asks the hub for a model
    sys.exit("missing" in sys.argv[-1])
parser = ArgumentParser()
for name in ("--sources", "--references", "--model", "--gpus", "--num_workers", "--to_json"):
    parser.add_argument(name)
parser.add_argument("--translations", nargs="+")
for name in ("-I", "--quiet", "--only_system"):
    parser.add_argument(name, action="store_true")
parser.add_argument("-m")
given = parser.parse_args()
if "broken" in given.model:
    sys.exit("RuntimeError: the weights are broken")

def lines(path):
    return Path(path).read_text(encoding="utf-8").split("\\n")[:-1]

answer = {{
    path: [
        {{"src": src, "mt": mt, "ref": ref, "COMET": len({{*mt.split()}} & {{*ref.split()}}) / len({{*ref.split()}})}}
        for src, mt, ref in zip(lines(given.sources), lines(path), lines(given.references), strict=True)
    ]
    for path in given.translations
}}
Path(given.to_json).write_text(json.dumps(answer), encoding="utf-8")
with open({calls!r}, "a", encoding="utf-8") as file:
    file.write(json.dumps({{"model": given.model, "rows": list(answer.values())}}) + "\\n")
"""


def install(environment: Path) -> Path:
    """Makes the environment; returns it."""
    (environment / "bin").mkdir(parents=True)
    program = environment / "bin" / "python"
    program.write_text(_PROGRAM.format(python=sys.executable, calls=str(environment / "calls.jsonl")))
    program.chmod(0o755)
    (environment / "bin" / "comet-score").touch()
    return environment


def calls(environment: Path) -> list[dict[str, Any]]:
    """Every scoring so far: the model, and a list a system of what its program was given, with scores."""
    file = environment / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def value(text: str, reference: str) -> float:
    """What `score` gives."""
    return 100 * len({*text.split()} & {*reference.split()}) / len({*reference.split()})
