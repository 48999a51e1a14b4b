"""Result rows: the numbers, and what they were measured with.  Rows are appended, never rewritten."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = Path(__file__).parent / "results"


def append(file: Path, arguments: Sequence[str], numbers: dict[str, Any]) -> dict[str, Any]:
    """Appends a row to a JSON-lines file, which is made if it is missing.

    Args:
        file: such as `RESULTS / "encoder.jsonl"`.
        arguments: of `python -m benchmarks`.
        numbers: what was measured, and the settings it depends on.

    Returns:
        The row.
    """
    row = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": shlex.join(["python", "-m", "benchmarks", *arguments]),
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers")},
        },
        **numbers,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    return row


def commit() -> str | None:
    """The checkout's commit, with `+` behind it where files differ from it; None outside a git checkout."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if head is None:
        return None
    # rows of earlier runs change no result
    changed = _git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}")
    return head + ("+" if changed else "")


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, threads torch uses, other load (1 minute average), GPU if any."""
    # not above: every process that a benchmark spawns imports this module
    import torch

    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
