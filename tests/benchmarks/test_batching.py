"""The benchmark as a user runs it, on a few requests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.reports import page


def test_measures_prints_and_appends_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--clients", "3", "--requests", "8", "--repeats", "2", "--device", "cpu", "--results", str(tmp_path)]
    assert main(["batching", *flags]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    (line,) = (tmp_path / "batching.jsonl").read_text().splitlines()
    assert line == last
    assert "pocket, 8 requests, 2 repeats" in table[0]
    row = json.loads(line)
    assert {"date", "machine", "versions"} <= row.keys()
    assert (row["model"]["name"], row["device"], row["requests"], row["repeats"]) == ("pocket", "cpu", 8, 2)
    one, three = row["clients"]
    assert (one["clients"], three["clients"]) == (1, 3)
    assert one["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert 0 < three["ratio"]["low"] <= three["ratio"]["median"] <= three["ratio"]["high"]
    assert all(
        each["clips_per_s"] > 0 < each["first_text_s"]["p50"] <= each["first_text_s"]["p95"] for each in (one, three)
    )
    text = page.render(tmp_path)
    assert f"| 3 | {three['ratio']['median']:.2f} (" in text
    assert "`python -m benchmarks batching` at" in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--clients", "0"], "--clients, --requests and --repeats must be at least 1"),
        (["--requests", "0"], "must be at least 1"),
        (["--repeats", "0"], "must be at least 1"),
        (["--model", "/nowhere"], "no checkpoint directory at /nowhere"),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batching", "--device", "cpu", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
