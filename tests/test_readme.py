"""The README is run: its commands, its Python, its links and its file map."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from compress.pocket.corpus import HUMAN_DEBIAN_PACKAGE
from compress.pocket.speech import DEBIAN_PACKAGES
from tests.serve.language import assert_chinese, assert_german
from tests.serve.processes import started
from tests.serve.servers import PATIENCE_S

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
MAPPED = ("compress", "serve", "benchmarks", "tests")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server as `make demo` starts it, on a free port and without the page, which has tests of its own."""
    with started("--no-page", "--max-new-tokens", "64") as (_, url):
        yield url


def run(command: list[str]) -> str:
    """Output of a command in the root of the checkout; `python` is the one that runs the tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("block", [block for block in blocks("bash") if not block.startswith("make ")])
def test_bash(block: str, url: str) -> None:
    output = run(["bash", "-euo", "pipefail", "-c", block.replace(ADDRESS, url)])
    texts = [json.loads(output)["text"]] if output.startswith("{") else output.splitlines()
    assert texts
    for text in texts:
        assert_german(text)


@pytest.mark.parametrize("block", blocks("python"))
def test_python(block: str, url: str) -> None:
    assert_chinese(run([sys.executable, "-c", block.replace(ADDRESS, url)]))


def test_what_is_run_is_what_a_reader_expects() -> None:
    shown = "\n".join(blocks("bash") + blocks("python"))
    assert all(words in shown for words in ("make demo\n", "make test\n", "curl", "-m serve translate", "OpenAI("))
    assert set(re.findall(r"^```(\w+)$", README, re.MULTILINE)) == {"bash", "python", "text"}


@pytest.mark.parametrize("target", sorted({*re.findall(r"\bmake ([a-z]+)`", README), "demo", "test"}))
def test_make_targets_exist(target: str) -> None:
    run(["make", "-n", target])


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m ([a-z]+)", README))))
def test_programs_have_help(module: str) -> None:
    assert "usage" in run([sys.executable, "-m", module, "--help"]).lower()


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    headings = {f"#{heading.lower().replace(' ', '-')}" for heading in re.findall(r"^## (.+)$", README, re.MULTILINE)}
    assert not [link for link in links if link not in headings and not (ROOT / link).is_file()]


def test_every_package_of_the_recipe_is_named() -> None:
    assert not [name for name in (*DEBIAN_PACKAGES, HUMAN_DEBIAN_PACKAGE) if f"`{name}`" not in README]


# --- the file map -----------------------------------------------------------------------------------------------


def file_map() -> list[str]:
    """Paths of the map in its order; those of folders end in a slash."""
    (lines,) = blocks("text")
    paths: list[str] = []
    above: list[str] = []
    for line in lines.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        above[depth:] = [name]
        paths.append("".join(above))
    return paths


def test_the_map_lists_nothing_that_is_missing() -> None:
    paths = file_map()
    assert len(set(paths)) == len(paths)
    wrong = [path for path in paths if not ((ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file())]
    assert not wrong


def test_the_map_covers_every_tracked_file() -> None:
    """A folder without lines of its own below it stands for all that is in it."""
    paths = file_map()
    rooms = tuple(path for path in paths if path.endswith("/") and sum(other.startswith(path) for other in paths) == 1)
    tracked = run(["git", "ls-files", "-z", "--", *MAPPED]).split("\0")
    uncovered = [
        path
        for path in tracked
        if path
        and (ROOT / path).exists()
        and PurePosixPath(path).name != "__init__.py"
        and path not in paths
        and not path.startswith(rooms)
    ]
    assert not uncovered


def test_each_folder_of_the_map_is_sorted_as_a_reader_looks_it_up() -> None:
    folders: dict[str, list[str]] = {}
    for path in map(PurePosixPath, file_map()):
        folders.setdefault(str(path.parent), []).append(path.name)
    for folder, names in folders.items():
        files = [name for name in names if (ROOT / folder / name).is_file()]
        assert folder == "." or files == sorted(files), folder
