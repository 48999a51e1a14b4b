"""The benchmark as a user runs it, on a few recordings; how calls are counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import load
from benchmarks.__main__ import main
from benchmarks.reports import page
from benchmarks.traffic.callers import Answer, Bout
from benchmarks.traffic.recordings import Recording

SENT = Recording(b"", 4.0, "de", np.zeros(0, np.float32))


def test_measures_prints_and_appends_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--clients", "1", "3", "--shares", "0.8", "--recordings", "6", "--repeats", "1"]
    assert main(["load", *flags, "--results", str(tmp_path)]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    one, three = row["closed"]
    assert (one["clients"], three["clients"]) == (1, 3)
    assert one["to_first"] == {"median": 1, "low": 1, "high": 1}
    assert three["to_first"]["median"] > 0 < row["formats"]["mp3_to_wav"]["median"]
    (opened,) = row["open"]
    assert (opened["share"], opened["calls"], opened["refused"]) == (0.8, 5, 0)
    assert 0 < opened["first_text_s"]["p50"] <= opened["first_text_s"]["p99"] <= opened["total_s"]["p99"]
    text = page.render(tmp_path)
    assert "| 80% | 0 of 5 |" in text
    assert "48 kHz stereo mp3 from 3 callers" in text


def test_goodput_counts_calls_that_were_answered_in_time() -> None:
    answers = (
        Answer(SENT, "ja", 1, 0.5, 7.9),
        Answer(SENT, "ja", 1, 1.5, 2.0),  # begins late
        Answer(SENT, "ja", 1, 0.5, 8.1),  # ends late
        Answer(SENT, None, 0, None, 0.1),  # refused
    )
    found = load._opened([Bout(answers, 10.0)])
    assert (found["calls"], found["refused"], found["goodput"]) == (4, 1, 0.25)
    assert found["per_s"] == 0.3
    assert found["rtfx"]["median"] == 1.2
    assert found["first_text_s"]["p50"] == 0.5


@pytest.mark.parametrize("flag", ["--clients", "--shares", "--recordings", "--repeats"])
def test_mistakes_are_named_and_leave_no_row(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", "--results", str(tmp_path), flag, "0"]) == 2
    assert f"{flag}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
