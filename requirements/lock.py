"""Remakes test.txt and demo.txt from their .in files with pip's own resolver: `make lock`."""

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = "kompakt-st"


def solve(python: str, source: Path, *options: str) -> dict[str, str]:
    """Asks pip what it would install into an empty environment, and returns {name: version}."""
    with tempfile.NamedTemporaryFile() as report:
        command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--report", report.name]
        if subprocess.run([*command, "-r", str(source), *options], cwd=HERE.parent, check=False).returncode:
            sys.exit(f"error: pip found no versions for {source.name}")
        found = [item["metadata"] for item in json.load(report)["install"]]
    # `2.13.0+cpu` exists only where pip is pointed at CPU builds; `==2.13.0` accepts both
    pins = {item["name"].lower().replace("_", "-"): item["version"].partition("+")[0] for item in found}
    pins.pop(PROJECT)
    return pins


def write(lock: Path, pins: dict[str, str]) -> None:
    """Writes one sorted `name==version` a line."""
    lines = [f"# made by `make lock` from {lock.stem}.in, with Python 3.11 on Linux x86-64; do not edit"]
    lines += [f"{name}=={version}" for name, version in sorted(pins.items())]
    lock.write_text("\n".join(lines) + "\n")
    print(f"{lock.relative_to(HERE.parent)}: {len(pins)} packages")


def main() -> None:
    """Solves the larger list first and holds the smaller one to it, so that the two always agree."""
    if sys.version_info[:2] != (3, 11):
        sys.exit(f"error: locks are made with Python 3.11, the oldest supported; this is {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(scratch, with_pip=True)
        python = f"{scratch}/bin/python"
        write(HERE / "test.txt", solve(python, HERE / "test.in"))
        write(HERE / "demo.txt", solve(python, HERE / "demo.in", "-c", str(HERE / "test.txt")))


if __name__ == "__main__":
    main()
