"""Every evaluation of a search on disk, one line each: a killed search goes on, a finished one can be looked into."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from compress.errors import RecipeError
from compress.search.greedy import Evaluation


class Forgetful:
    """Keeps nothing, for searches that nobody kills; see `greedy.Log`."""

    def known(self, removed: tuple[int, ...]) -> dict[int, Evaluation]:
        """Nothing."""
        del removed
        return {}

    def add(self, removed: tuple[int, ...], evaluation: Evaluation) -> None:
        """Forgets it."""
        del removed, evaluation


class EvaluationLog:
    """A file of evaluations; see `greedy.Log`.

    Args:
        path: made when missing.
        identity: what the evaluations depend on; a file that was made of something else is refused.

    Raises:
        RecipeError: the file belongs to another search, or is no such file.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        self._known: dict[tuple[int, ...], dict[int, Evaluation]] = {}
        lines = _whole_lines(path)
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(identity) + "\n", encoding="utf-8")
            return
        before, *entries = _parsed(path, lines)
        identity = json.loads(json.dumps(identity))  # as it is read back: tuples are lists
        changed = [name for name in before.keys() | identity.keys() if before.get(name) != identity.get(name)]
        if changed:
            changes = ", ".join(f"{n} was {before.get(n)!r}, is {identity.get(n)!r}" for n in sorted(changed))
            raise RecipeError(f"{path} is of another search ({changes}): delete it to start anew")
        for entry in entries:
            evaluation = Evaluation(entry["layer"], entry["score"], entry["bound"], tuple(entry["hypotheses"]))
            self._remember(tuple(entry["removed"]), evaluation)
        # a line that the kill cut off is gone
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        temporary.replace(path)

    def known(self, removed: tuple[int, ...]) -> dict[int, Evaluation]:
        """What was found for a round before."""
        return dict(self._known.get(removed, {}))

    def add(self, removed: tuple[int, ...], evaluation: Evaluation) -> None:
        """Keeps one more; it is on disk when this returns."""
        entry = {"removed": removed, **vars(evaluation)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._remember(removed, evaluation)

    def _remember(self, removed: tuple[int, ...], evaluation: Evaluation) -> None:
        self._known.setdefault(removed, {})[evaluation.layer] = evaluation


def _whole_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    # not `splitlines`: a translation may hold other line ends, such as U+2028, which JSON leaves as they are
    return text.split("\n")[:-1]


def _parsed(path: Path, lines: list[str]) -> list[dict[str, Any]]:
    try:
        found = [json.loads(line) for line in lines]
    except json.JSONDecodeError:
        found = []
    if not found or not all(isinstance(one, dict) for one in found):
        raise RecipeError(f"{path} is no log of a search: delete it to start anew")
    return found
