"""The benchmark's mistakes, and its section of the page; what it measures needs vLLM's environment, and minutes."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.reports import page


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--clips", "0"], "--clips must be at least 1"),
        pytest.param(
            ["--clips", "1"],
            "vLLM is not installed here: `make vllm`",
            marks=pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here"),
        ),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parity", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_page_says_how_many_are_the_same(tmp_path: Path) -> None:
    ratio = {"median": 4.0, "low": 3.0, "high": 5.0}
    row = {
        "date": "2026-01-01T00:00:00+00:00",
        "commit": "0" * 12,
        "command": "python -m benchmarks parity",
        "machine": {"cpu": "some", "cores": 2, "threads": 2, "load": 0.0, "gpu": None},
        "versions": {"python": "3.11", "torch": "2", "transformers": "5"},
        "clips": 3,
        "domain": "daily",
        "checkpoints": [{"name": "nf4", "bytes": 26_600_000, "translations": 6, "same": 5, "tokens": 90}],
        "own_class": {"first_text": ratio, "total": ratio, "same": 6, "of": 6},
    }
    (tmp_path / "parity.jsonl").write_text(json.dumps(row) + "\n")
    text = page.render(tmp_path)
    assert "| nf4 | 26.6 | 5 of 6 |" in text
    assert "the first text comes 4.00 (3.00–5.00) times later" in text
