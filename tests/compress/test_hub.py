"""Models by name, from a hub cache built by hand, in the layout that `snapshot_download` leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from compress import hub
from compress.checkpoint import POCKET
from compress.errors import CheckpointError

ROOT: Final = Path(__file__).parents[2]
MODEL: Final = "someone/student"
COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"


def fill_cache(cache: Path, others: Sequence[str] = (), *, lineage: bool = True) -> Path:
    """The pocket model as the hub's MODEL.

    Args:
        cache: made if missing.
        others: files that the repository has, too, and nobody has downloaded.
        lineage: whether it says where it comes from.
    """
    repository = cache / f"models--{MODEL.replace('/', '--')}"
    snapshot = Path(shutil.copytree(POCKET, repository / "snapshots" / COMMIT))
    if not lineage:
        (snapshot / "lineage.json").unlink()
    files = [file.name for file in snapshot.iterdir() if file.name != "README.md"]
    tree = {name: {"size": 1, "blob_id": "0"} for name in (*files, *others)}
    (repository / "trees").mkdir()
    (repository / "trees" / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": tree}))
    (repository / "refs").mkdir()
    for branch in ("main", "v1"):
        (repository / "refs" / branch).write_text(COMMIT)
    return snapshot


def fetch_offline(model: str, revision: str | None, cache: Path) -> str:
    """What `fetch` gives in a process that may not use the network: path and name, or the refusal."""
    program = f"""
from pathlib import Path
from compress.errors import CheckpointError
from compress.hub import fetch
try:
    found = fetch({model!r}, {revision!r}, Path({str(cache)!r}))
    print(found.path, found.name)
except CheckpointError as error:
    print(f"refused: {{error}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


# --- the hub ----------------------------------------------------------------------------------------------------


def test_a_commit_in_the_cache_needs_no_network(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path)
    found = hub.fetch(MODEL, COMMIT, tmp_path)
    assert (found.path, found.name) == (snapshot, "pocket")


def test_what_is_held_of_a_model_is_counted_once(tmp_path: Path) -> None:
    assert hub.held(MODEL, tmp_path) == (tmp_path / "models--someone--student", 0)
    blobs = tmp_path / "models--someone--student" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "0").write_bytes(b"12345")
    (snapshot := blobs.parent / "snapshots" / COMMIT).mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blobs / "0")
    assert hub.held(MODEL, tmp_path)[1] == 5


def test_names_of_the_hub_are_told_from_directories(tmp_path: Path) -> None:
    assert hub.is_on_hub(MODEL)
    assert not any(map(hub.is_on_hub, ["pocket", "./a", "~/a", "/a", "a", "a/b/c", str(tmp_path)]))


def test_a_model_without_lineage_is_called_by_repository_and_commit(tmp_path: Path) -> None:
    fill_cache(tmp_path, lineage=False)
    found = hub.fetch(MODEL, COMMIT, tmp_path)
    assert found.name == "someone/student@0123456789ab"
    assert found.descend("student", {})["parent"] == "someone/student@0123456789ab"


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_the_cache_is_enough_without_a_network(revision: str | None, tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path)
    assert fetch_offline(MODEL, revision, tmp_path) == f"{snapshot} pocket"


def test_neither_network_nor_cache_is_said_in_words(tmp_path: Path) -> None:
    said = fetch_offline(MODEL, None, tmp_path)
    assert said.startswith(
        "refused: there is no directory someone/student, and it is neither in the hub's cache nor to "
    )
    fill_cache(tmp_path)
    assert fetch_offline(MODEL, "v2", tmp_path).startswith("refused: there is no directory someone/student")


def test_pickles_and_code_are_not_asked_for(tmp_path: Path) -> None:
    """The repository's list has them; a snapshot without them counts as whole."""
    snapshot = fill_cache(tmp_path, ["pytorch_model.bin", "modeling_student.py", "optimizer.pt"])
    assert hub.fetch(MODEL, COMMIT, tmp_path).path == snapshot
    assert not [file.name for file in snapshot.iterdir() if file.suffix in (".bin", ".py", ".pt")]


def test_an_incomplete_snapshot_is_no_model(tmp_path: Path) -> None:
    fill_cache(tmp_path, ["model-00002-of-00002.safetensors"])
    assert fetch_offline(MODEL, None, tmp_path).startswith("refused: there is no directory someone/student")


def test_a_pickle_in_the_cache_is_refused(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path)
    (snapshot / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds pytorch_model\.bin: only safetensors weights are loaded"):
        hub.fetch(MODEL, COMMIT, tmp_path)


# --- not the hub ------------------------------------------------------------------------------------------------


def test_the_pocket_model_and_directories_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.fetch("pocket").path == POCKET
    copy = Path(shutil.copytree(POCKET, tmp_path / "someone" / "student"))
    assert hub.fetch(str(copy)).path == copy
    monkeypatch.chdir(tmp_path)
    # a directory wins over the hub's model of that name
    assert hub.fetch("someone/student").path == copy


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/no/where", "a/b/c", "~/nowhere"])
def test_what_can_only_be_a_directory_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint directory at"):
        hub.fetch(name)


@pytest.mark.parametrize("name", ["pocket", str(POCKET), "nowhere"])
def test_only_models_from_the_hub_have_revisions(name: str) -> None:
    with pytest.raises(CheckpointError, match="is no model from the hub: only those have revisions"):
        hub.fetch(name, "main")
