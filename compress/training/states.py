"""What a killed training goes on from: states that are whole or not there, and of this training or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from compress.errors import RecipeError

STATES: Final = "states"
PARTIAL: Final = "partial"

_IDENTITY_FILE: Final = "training.json"


def last(directory: Path) -> Path | None:
    """The last whole state, if there is one; what a kill left half-written is deleted."""
    shutil.rmtree(directory / PARTIAL, ignore_errors=True)
    return next(iter(_whole(directory)[::-1]), None)


def keep(written: Path, directory: Path, step: int) -> None:
    """Makes what is written the last whole state; older ones go."""
    older = _whole(directory)
    written.rename(directory / f"step-{step:08d}")
    for state in older:
        shutil.rmtree(state)


def check_same(work: Path, identity: dict[str, Any], *, is_main: bool) -> None:
    """Notes what a training is before it begins; before it goes on, sees to it that it is the same.

    Args:
        work: its directory.
        identity: all that its states depend on, by the names that messages use.
        is_main: whether this process writes.

    Raises:
        RecipeError: the directory holds another training; the message names what differs.
    """
    file = work / _IDENTITY_FILE
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = [name for name, value in identity.items() if before.get(name) != value]
        if changed:
            changes = ", ".join(f"{name} was {before.get(name)!r}, is {identity[name]!r}" for name in changed)
            raise RecipeError(f"{work} holds a training with other settings ({changes}): delete it to start anew")
    elif is_main:
        work.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
        temporary.replace(file)


def _whole(directory: Path) -> list[Path]:
    """Oldest first."""
    return sorted(directory.glob("step-*"))
