"""The benchmark as a user runs it, without vLLM; what its report says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.reports import page


def test_measures_prints_and_appends_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--recordings", "3", "--repeats", "2", "--no-vllm", "--results", str(tmp_path)]
    assert main(["peers", *flags]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = {one["name"]: one for one in row["contestants"]}
    assert list(found) == ["published", "published, batched", "our engine", "our server"]
    # greedy in fp32: all of them say the same
    assert {(one["same_texts"], one["texts"]) for one in found.values()} == {(6, 6)}
    assert found["published"]["more_than"]["published"]["median"] == 1
    assert found["published, batched"]["sooner_than"] == {}
    # the padded encoder alone takes several times as long as ours takes to the first text
    assert found["our engine"]["sooner_than"]["published"]["median"] > 1.5
    text = page.render(tmp_path)
    assert "## Peers" in text
    assert "| published, batched | – |" in text
    assert f"comes {row['http']['first_text_later_ms']['median']:.2f} (" in text


def test_mistakes_are_named_and_leave_no_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peers", "--recordings", "0", "--results", str(tmp_path)]) == 2
    assert "--recordings and --repeats must be at least 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
