"""The benchmark as a user runs it, on a talk of a few seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.reports import page


@pytest.mark.slow
@pytest.mark.usefixtures("synthesisers")
def test_measures_prints_and_appends_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["live", "--languages", "zh", "--minutes", "0.1", "--speakers", "2", "--results", str(tmp_path)]
    assert main(arguments) == 0
    *tables, last = capsys.readouterr().out.splitlines()
    assert "lags in s" in tables[0]
    row = json.loads(last)
    assert (tmp_path / "live.jsonl").read_text() == f"{last}\n"
    talks = {(one["policy"], one["how"]): one for one in row["talks"]}
    assert len(talks) == 5
    for (policy, how), talk in talks.items():
        assert [score["metric"] for score in talk["scores"]] == ["BLEU", "chrF"]
        assert all(score["signature"] and score["split"] == "report" for score in talk["scores"])
        assert ("yaal_cu_s" in talk) == (policy != "offline")
        assert ("yaal_ca_s" in talk) == (how == "paced")
    # each lag by the clock is longer than the same lag by what had been heard
    for policy in ("segment", "agreement"):
        assert talks[policy, "paced"]["laal_ca_s"] > talks[policy, "paced"]["laal_cu_s"]
    assert talks["segment", "simulated"]["laal_cu_s"] > talks["agreement", "simulated"]["laal_cu_s"]
    assert [(one["policy"], one["speakers"]) for one in row["crowds"]] == [("segment", 2), ("agreement", 2)]
    text = page.render(tmp_path)
    assert "## Live translation" in text
    assert "| Chinese | agreement, paced | " in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--minutes", "0"], "--minutes must be more than 0"),
        (["--speakers", "0"], "each of --speakers at least 1"),
        (["--model", "/nowhere"], "no checkpoint directory at /nowhere"),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["live", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
