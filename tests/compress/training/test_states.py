"""States are whole or not there, one at a time, and of the same training or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.errors import RecipeError
from compress.training import states

IDENTITY = {"epochs": 2, "origin": "teacher"}


def write(directory: Path, step: int) -> Path:
    """As the Trainer does before the state is whole."""
    written = directory / states.PARTIAL / f"checkpoint-{step}"
    written.mkdir(parents=True)
    (written / "weights").write_text(str(step))
    return written


def test_before_the_first_state_there_is_none(tmp_path: Path) -> None:
    assert states.last(tmp_path / "states") is None


def test_only_the_last_whole_state_is_kept(tmp_path: Path) -> None:
    for step in (2, 10):
        states.keep(write(tmp_path, step), tmp_path, step)
    found = states.last(tmp_path)
    assert found is not None
    assert (found / "weights").read_text() == "10"
    assert list(tmp_path.iterdir()) == [found]


def test_the_later_of_two_states_counts_and_a_half_written_one_does_not(tmp_path: Path) -> None:
    states.keep(write(tmp_path, 10), tmp_path, 10)
    (tmp_path / "step-00000009").mkdir()  # killed before it was deleted
    write(tmp_path, 11)
    found = states.last(tmp_path)
    assert found is not None
    assert (found / "weights").read_text() == "10"
    assert not (tmp_path / states.PARTIAL).exists()


def test_another_training_is_refused_and_all_that_differs_is_named(tmp_path: Path) -> None:
    for _ in range(2):
        states.check_same(tmp_path / "work", IDENTITY, is_main=True)
    with pytest.raises(RecipeError, match=r"epochs was 2, is 3, origin was 'teacher', is 'student'\): delete it"):
        states.check_same(tmp_path / "work", {"epochs": 3, "origin": "student"}, is_main=False)
    assert json.loads((tmp_path / "work" / "training.json").read_text()) == IDENTITY


def test_one_process_writes_what_a_training_is(tmp_path: Path) -> None:
    states.check_same(tmp_path / "work", IDENTITY, is_main=False)
    assert not (tmp_path / "work").exists()
