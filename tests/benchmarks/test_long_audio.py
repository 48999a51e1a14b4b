"""A short form of the hour: one recording that is longer than the encoder's window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.reports import page


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    results = tmp_path_factory.mktemp("results")
    assert main(["long-audio", "--minutes", "0.7", "--results", str(results)]) == 0
    (line,) = (results / "long-audio.jsonl").read_text().splitlines()
    return dict(json.loads(line))


@pytest.mark.slow
def test_every_sentence_is_found_and_text_begins_before_the_end(row: dict[str, Any]) -> None:
    (one,) = row["recordings"]
    assert one["stretches"] == one["sentences"] > 6
    assert one["characters"] > 10 * one["sentences"]
    assert 0 < one["first_text_s"] < 0.8 * one["total_s"]
    assert abs(one["highest_mb"] - row["before_mb"]) < 150
    assert 100_000 < one["bytes"] < 200_000


@pytest.mark.slow
def test_the_row_is_rendered(row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "long-audio.jsonl").write_text(json.dumps(row) + "\n")
    text = page.render(tmp_path)
    assert "pocket into German" in text
    assert "| 0.7 min, 0.1 MB | " in text
    assert "- `python -m benchmarks long-audio` at " in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--minutes", "0"], "each of --minutes must be more than 0"),
        (["--minutes", "1", "-1"], "each of --minutes must be more than 0"),
        (["--model", "/nowhere"], "no checkpoint directory at /nowhere"),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["long-audio", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
