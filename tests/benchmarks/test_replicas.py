"""The benchmark as a user runs it, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.reports import page


def test_counts_prints_and_appends_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replicas", "--calls", "24", "--repeats", "1", "--results", str(tmp_path)]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    (found,) = row["runs"]
    assert sum(found.values()) == 24
    assert (found["lost"], found["wrong"]) == (0, 0)
    # a caller has one text at a time
    assert found["broken off"] <= 8
    assert f"| 1 | {found['answered']} | {found['broken off']} | 0 | 0 |" in page.render(tmp_path)


@pytest.mark.parametrize(("flag", "value"), [("--servers", "1"), ("--calls", "0"), ("--repeats", "0")])
def test_mistakes_are_named_and_leave_no_row(
    flag: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replicas", "--results", str(tmp_path), flag, value]) == 2
    assert "--servers must be at least 2, --calls and --repeats at least 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
