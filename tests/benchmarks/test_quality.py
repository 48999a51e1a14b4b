"""The benchmark as a user runs it, on a few sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import quality
from benchmarks.__main__ import main
from benchmarks.reports import page
from compress.checkpoint import POCKET


def test_measures_prints_and_appends_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = str(quality.STUDENTS[0])
    flags = ["--models", str(POCKET), student, "--sentences", "5", "--human", "0", "--results", str(tmp_path)]
    assert main(["quality", *flags]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["recordings"] == 30
    german, chinese = row["languages"]
    # the student was made for one language
    assert [one["name"] for one in german["models"]] == ["pocket", Path(student).name]
    assert [one["name"] for one in chinese["models"]] == ["pocket"]
    pocket, pupil = german["models"]
    overall = [one for one in pocket["scores"] if not one["group"]]
    assert [one["metric"] for one in overall] == ["BLEU", "chrF++"]
    assert all(one["n"] == 30 and one["split"] == "report" and one["signature"] for one in overall)
    # groups of fewer than ten say nothing
    groups = {one["group"] for one in pocket["scores"]}
    assert groups >= {"", "up to 5 s"}
    assert groups.isdisjoint({"daily, seen voices", "talks, held-out voices"})
    assert [one["metric"] for one in pupil["compared"]] == ["BLEU", "chrF++"]
    assert pocket["compared"] == []
    # nobody is heard differently because others are being served
    assert all(one["differ"] == 0 for each in row["languages"] for one in each["models"])
    text = page.render(tmp_path)
    assert "**German**, 30 recordings" in text
    differed = f"of 24: pocket 0, {Path(student).name} 0."
    assert f"- Texts that differed when they were asked for again, in another order, {differed}" in text


def test_mistakes_are_named_and_leave_no_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", "--sentences", "0", "--results", str(tmp_path)]) == 2
    assert "--sentences must be at least 1, and --human at least 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
