"""The benchmark as a user runs it, on few utterances and one round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.reports.page import render


@pytest.mark.slow
@pytest.mark.usefixtures("synthesisers")
def test_compares_the_two_in_each_language(
    random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fast-search", "--model", str(random_model), "--utterances", "4", "--rounds", "1", "--parts", "2"]
    assert main([*arguments, "--results", str(tmp_path)]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    row = json.loads(last)
    assert [(one["language"], one["part"]) for one in row["searches"]] == [("de", 0), ("de", 1), ("zh", 0), ("zh", 1)]
    same = 0
    for one in row["searches"]:
        exact, fast = one["exact"], one["fast"]
        assert len(exact["removed"]) == len(fast["removed"]) == 1
        # the exact one's is the best of one round, whoever is chosen
        assert fast["score"] <= exact["score"]
        same += exact["removed"] == fast["removed"]
        assert one["times_faster"] > 0
    assert row["same_layers"] == row["same_searches"] == same
    assert row["of_layers"] == len(row["searches"])
    assert f"{same} of 4 layers are the same" in render(tmp_path)


def test_nothing_to_search_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fast-search", "--parts", "0", "--results", str(tmp_path)]) == 2
    assert "must be at least 1" in capsys.readouterr().err
