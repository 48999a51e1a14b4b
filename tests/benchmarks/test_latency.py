"""The benchmark as a user runs it, on one recording."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.latency import how_many
from benchmarks.reports import page


def test_measures_prints_and_appends_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--forms", "pocket", "6-of-12-layers", "--seconds", "3", "--recordings", "2"]
    assert main(["latency", *flags, "--results", str(tmp_path)]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["name"] for one in row["forms"]] == ["pocket", "6-of-12-layers"]
    assert row["forms"][0]["bytes"] > row["forms"][1]["bytes"]
    (length,) = row["lengths"]
    whole, half = length["forms"]
    assert whole["to_first"]["total_s"] == {"median": 1, "low": 1, "high": 1}
    # a decoder of half the layers, whatever it says
    assert half["to_first"]["token_s"]["median"] < 0.9
    assert 0 < whole["first_text_s"]["p50"] <= whole["total_s"]["p50"] <= whole["total_s"]["p99"]
    assert whole["real_time_factor"]["p50"] == pytest.approx(whole["total_s"]["p50"] / 3, abs=1e-3)
    text = page.render(tmp_path)
    assert "## What one caller waits for" in text
    assert "| 2 of 3 s | pocket | 1.00 (1.00–1.00) | 1.00 (1.00–1.00) | 1.00 (1.00–1.00) |" in text


def test_vllm_takes_its_turn_where_it_is_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vllm", reason="this environment is not `make vllm`'s")
    flags = ["--engine", "vllm", "--forms", "pocket", "--seconds", "3", "--recordings", "1"]
    assert main(["latency", *flags, "--results", str(tmp_path)]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["engine"] == "vllm"
    assert row["lengths"][0]["forms"][0]["tokens"] > 1
    assert "Engine vllm, into German; pocket 39.6 MB:" in page.render(tmp_path)


@pytest.mark.parametrize(("seconds", "n", "wanted"), [(1, 24, 24), (5, 24, 24), (10, 24, 12), (30, 24, 4), (30, 2, 2)])
def test_of_long_recordings_there_are_fewer(seconds: float, n: int, wanted: int) -> None:
    assert how_many(seconds, n) == wanted


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seconds", "0"], "each of --seconds must be more than 0"),
        (["--recordings", "0"], "--recordings at least 1"),
        (["--forms", "w4a16"], "engine transformers has no form w4a16: choose from pocket, 9-of-12-layers"),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["latency", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
