"""A run is refused that a disk cannot hold; what is there already needs no room."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from compress.disk import check
from compress.errors import RecipeError
from compress.plan import Need, Plan

GB = 1e9
MODEL = "someone/student"


def plan(result_bytes: int, *, work_bytes: int = 0, audio_bytes: int = 0, download_bytes: int = 0) -> Plan:
    need = Need("prune", "prune", "", (1, 1), result_bytes, 0, work_bytes)
    return Plan("toy", MODEL, (need,), audio_bytes, download_bytes)


def fill(file: Path, n_bytes: int) -> None:
    """A file of that size, which takes no room itself."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        opened.truncate(n_bytes)


@pytest.fixture
def too_much(tmp_path: Path) -> int:
    return 2 * shutil.disk_usage(tmp_path).total


def test_what_fits_is_let_through_and_leaves_nothing(tmp_path: Path) -> None:
    work = tmp_path / "not" / "there" / "yet"
    assert check(plan(100, work_bytes=7, audio_bytes=5, download_bytes=9), work, tmp_path / "hub") == ""
    assert not any(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_refused_with_both_numbers(too_much: int, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        check(plan(100, work_bytes=too_much), tmp_path / "work")
    assert str(caught.value).startswith(f"{tmp_path / 'work' / 'toy'} needs {too_much / GB:.1f} GB, and its disk has ")
    assert str(caught.value).endswith(" GB left")


def test_what_is_there_already_needs_no_room(too_much: int, tmp_path: Path) -> None:
    fill(tmp_path / "toy" / "01-finetune" / "model.safetensors", too_much)
    assert check(plan(too_much), tmp_path) == ""
    with pytest.raises(RecipeError, match=r"GB, of which \d+\.\d GB are there, and its disk has"):
        check(plan(2 * too_much), tmp_path)


def test_a_model_that_is_downloaded_needs_room_in_the_hubs_cache(too_much: int, tmp_path: Path) -> None:
    cache, place = tmp_path / "hub", tmp_path / "hub" / "models--someone--student"
    wanted = plan(10, download_bytes=too_much)
    with pytest.raises(RecipeError, match=f"toy and {place} need .* GB, and their disk has"):
        check(wanted, tmp_path / "work", cache)
    fill(place / "blobs" / "0", too_much)
    assert check(wanted, tmp_path / "work", cache) == ""


def test_what_only_a_guess_makes_too_much_is_a_warning(too_much: int, tmp_path: Path) -> None:
    warning = check(plan(10, audio_bytes=too_much), tmp_path)
    assert warning.startswith(f"{tmp_path / 'toy'} and {tmp_path / 'audio'} need {too_much / GB:.1f} GB")
    fill(tmp_path / "audio" / "samples" / "0.npy", too_much)
    assert check(plan(10, audio_bytes=too_much), tmp_path) == ""
