"""Whether the disks can hold what a plan says: results and states, the model from the hub, encoded audio."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from compress import hub
from compress.errors import RecipeError
from compress.plan import Plan


def check(found: Plan, work: Path, cache: Path | None = None) -> str:
    """Refuses a run that the disks cannot hold; what is there already needs no room.

    Args:
        found: what it needs.
        work: the directory of all recipes' work.
        cache: the hub's cache, its usual place if absent.

    Returns:
        A warning where encoded audio, which is a guess, may not fit beside the rest; empty otherwise.

    Raises:
        RecipeError: a disk cannot hold results and states, or the model.
    """
    loads = [_Load(work / found.recipe, found.work_bytes, _n_bytes(work / found.recipe))]
    if found.download_bytes:
        place, n_held = hub.held(found.model, cache)
        loads.append(_Load(place, found.download_bytes, n_held))
    if problem := _overfull(loads):
        raise RecipeError(problem)
    return _overfull([*loads, _Load(work / "audio", found.audio_bytes, _n_bytes(work / "audio"))])


@dataclass(frozen=True)
class _Load:
    """What is going to lie somewhere.

    Attributes:
        place: a directory, which need not be there yet.
        n_bytes: all of it.
        n_held: what lies there already; of other things perhaps, so it may be more.
    """

    place: Path
    n_bytes: int
    n_held: int

    @property
    def missing_bytes(self) -> int:
        """What is still to come."""
        return max(0, self.n_bytes - self.n_held)

    @property
    def root(self) -> Path:
        """The nearest directory that is there."""
        place = self.place.expanduser().absolute()
        while not place.exists():
            place = place.parent
        return place


def _overfull(loads: list[_Load]) -> str:
    """Which disk cannot hold what is to come, in words; empty where all can."""
    by_disk: dict[int, list[_Load]] = {}
    for load in loads:
        by_disk.setdefault(load.root.stat().st_dev, []).append(load)
    for found in by_disk.values():
        missing, free = sum(load.missing_bytes for load in found), shutil.disk_usage(found[0].root).free
        if missing > free:
            needed = sum(load.n_bytes for load in found)
            done = f", of which {(needed - missing) / 1e9:.1f} GB are there" if needed > missing else ""
            need, its = ("needs", "its") if len(found) == 1 else ("need", "their")
            places = " and ".join(str(load.place) for load in found)
            return f"{places} {need} {needed / 1e9:.1f} GB{done}, and {its} disk has {free / 1e9:.1f} GB left"
    return ""


def _n_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.expanduser().rglob("*") if file.is_file())
