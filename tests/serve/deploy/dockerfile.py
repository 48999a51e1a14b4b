"""The Dockerfile and what keeps files from it, read as far as this repository goes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = Path(__file__).parents[3]
Stage = list[tuple[str, str]]  # keyword and the rest of each instruction


def _stages(text: str) -> dict[str, Stage]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found: dict[str, Stage] = {}
    stage: Stage = []  # of what stands before the first one
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            parent, _, name = rest.partition(" AS ")
            stage = found[name] = list(found.get(parent, []))
        elif keyword:
            stage.append((keyword, rest))
    return found


# by name, each with the instructions of the stages that it is made from before its own
STAGES: Final = _stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))
TARGETS: Final = ("cpu", "cuda")


def arguments(stage: str, keyword: str) -> list[str]:
    """What follows a keyword, wherever it stands in a stage."""
    return [rest for found, rest in STAGES[stage] if found == keyword]


def environment(stage: str) -> dict[str, str]:
    """The variables that a stage sets."""
    words = (word for rest in arguments(stage, "ENV") for word in shlex.split(rest))
    return dict(word.split("=", 1) for word in words)


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps a file of the checkout from the build."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert not any(rule.startswith("!") for rule in rules), "exceptions are not read here"
    patterns = [re.escape(rule).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*") for rule in rules]
    parts = [PurePosixPath(path), *PurePosixPath(path).parents]
    return any(re.fullmatch(pattern, str(part)) for part in parts for pattern in patterns)
