"""The benchmark as a user runs it, with few repeats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.footprint import CLIP
from benchmarks.reports import page
from compress.checkpoint import POCKET

STUDENT = POCKET.with_name("students") / "pocket-setup2-de-export"


def test_measures_prints_and_appends_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--device", "cpu", "--repeats", "2", "--rows", "1", "4", "--memory-mb", "16", "--results", str(tmp_path)]
    assert main(["speed-of-light", *flags]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    (line,) = (tmp_path / "speed-of-light.jsonl").read_text().splitlines()
    assert line == last
    assert "pocket on cpu, 2 repeats" in table[0]
    row = json.loads(line)
    assert (row["model"]["name"], row["device"], row["repeats"]) == ("pocket", "cpu", 2)
    steps = {(one["step"], one["dtype"]): one for one in row["steps"]}
    in_model = ["encoder", "prompt", "decode, batch 1", "decode, batch 4", "lm_head"]
    assert list(steps) == [
        ("decode audio", "float32"),
        ("log-mel", "float32"),
        *((step, dtype) for dtype in ("float32", "bfloat16") for step in in_model),
    ]
    for one in steps.values():
        assert one["bound_us"] > 0 < one["took_us"]
        assert 0 <= one["share"]["low"] <= one["share"]["median"] <= one["share"]["high"] < 2
    assert steps["encoder", "float32"]["limit"] == "operations"
    assert steps["decode, batch 1", "float32"]["limit"] == "bytes"
    one, four = (steps[f"decode, batch {n_rows}", "float32"] for n_rows in (1, 4))
    assert four["operations"] == 4 * one["operations"]
    assert one["bytes"] < four["bytes"] < 2 * one["bytes"]
    # half as many bytes for each weight
    assert steps["lm_head", "float32"]["bytes"] == 2 * steps["lm_head", "bfloat16"]["bytes"]
    assert steps["decode audio", "float32"]["bytes"] > CLIP.stat().st_size
    assert set(row["roofs"]["gflop_per_s"]) == {"float32", "bfloat16"}
    text = page.render(tmp_path)
    assert f"| decode, batch 4 | float32 | {four['operations'] / 1e6:,.1f} |" in text
    assert "`python -m benchmarks speed-of-light` at" in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--repeats", "0"], "--rows, --repeats and --memory-mb must be at least 1"),
        (["--rows", "0"], "must be at least 1"),
        (["--memory-mb", "0"], "must be at least 1"),
        (["--model", "/nowhere"], "no checkpoint directory at /nowhere"),
        (["--model", str(STUDENT)], "pocket-setup2-de-export must hold plain weights"),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["speed-of-light", "--device", "cpu", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
