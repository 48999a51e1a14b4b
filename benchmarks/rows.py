"""Result rows read back: of those that measured the same, the last one counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

Row = dict[str, Any]

# what says with what a row was measured, not what was measured
CIRCUMSTANCES: Final = ("date", "commit", "command", "machine", "versions")


def read(file: Path) -> list[Row]:
    """All rows of a file, oldest first; none where there is no file."""
    if not file.is_file():
        return []
    # not `splitlines`: a row may hold what Unicode, too, calls the end of a line, and JSON leaves as it is
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def measured(row: Row) -> Row:
    """A row without its circumstances."""
    return {key: value for key, value in row.items() if key not in CIRCUMSTANCES}


def latest(rows: list[Row], *results: str) -> list[Row]:
    """The last of all rows that differ in nothing but their circumstances and what these keys name."""
    found: dict[str, Row] = {}
    for row in rows:
        settings = {key: value for key, value in measured(row).items() if key not in results}
        found[json.dumps(settings, sort_keys=True)] = row
    return list(found.values())


def by_stage(rows: list[Row]) -> dict[tuple[str, str], Row]:
    """The last row of every recipe's stages, by their names."""
    return {(row["recipe"], row["stage"]): row for row in rows}
