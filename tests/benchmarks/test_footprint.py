"""The benchmark as a user runs it, once, on the pocket model and a narrow one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import footprint
from benchmarks.__main__ import main
from benchmarks.reports import page
from compress.checkpoint import POCKET, Checkpoint
from compress.weights.size import Layout
from tests.compress import narrow


@pytest.fixture
def small(tmp_path: Path) -> Checkpoint:
    return narrow.checkpoint(Checkpoint.open(POCKET).load_processor(), tmp_path / "narrow")


def test_measures_prints_and_appends_a_row(
    small: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    assert main(["footprint", "--model", str(small.path), "--repeats", "1", "--results", str(results)]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    (line,) = (results / "footprint.jsonl").read_text().splitlines()
    assert line == last
    assert "times those of pocket" in table[0]
    row = json.loads(line)
    pocket, other = row["checkpoints"]
    assert (pocket["name"], other["name"], row["repeats"]) == ("pocket", "narrow", 1)
    assert (pocket["layers"], pocket["format"], pocket["adapter"]) == ({"tower": 4, "decoder": 12}, "plain", False)
    assert other["layers"] == {"tower": narrow.N_TOWER_LAYERS, "decoder": narrow.N_LAYERS}
    assert pocket["bytes"] == 2 * pocket["parameters"] == 2 * pocket["stored_elements"]
    for name in ("load", "first", "second"):
        assert pocket[name]["ratio"] == {"median": 1, "low": 1, "high": 1}
        assert other[name]["ratio"]["median"] > 0 < other[name]["s"]["median"]
    # fp32 weights at least, and not the libraries, which take several times as much
    fp32_mb = 4 * pocket["parameters"] / 1e6
    assert fp32_mb < pocket["grown_mb"]["median"] < pocket["peak_mb"]["median"] - fp32_mb
    assert other["grown_mb"]["median"] < pocket["grown_mb"]["median"]
    text = page.render(results)
    assert "| pocket | 4/12 | plain | 19,7" in text
    assert "| 32/24 | paper | 4.12 | 8.65 | 4.12 | 8.65 | 48.5% |" in text
    assert "`python -m benchmarks footprint` at" in text


def test_plans_are_the_papers_figures() -> None:
    plans = list(footprint.planned())
    papers = [plan for plan in plans if plan.papers]
    assert len(papers) == 8
    for plan in papers:
        assert plan.papers is not None
        assert plan.size.stored_elements / 1e9 == pytest.approx(plan.papers.params, abs=0.01)
        assert plan.size.tensor_bytes / 1e9 == pytest.approx(plan.papers.storage, abs=0.01)
    by_layers = {(plan.n_layers, plan.layout): plan.size.tensor_bytes for plan in plans}
    for n_layers in (32, 24, 22, 20, 16):
        assert (
            by_layers[n_layers, Layout.COMPACT] < by_layers[n_layers, Layout.PAPER] < by_layers[n_layers, Layout.BF16]
        )


def test_a_checkpoint_that_does_not_start_is_named(
    small: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small.path / "tokenizer.json").write_text("{}")
    assert main(["footprint", "--model", str(small.path), "--repeats", "1", "--results", str(tmp_path / "none")]) == 2
    assert "narrow could not be started: " in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--model", "/nowhere"], "no checkpoint directory at /nowhere"),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["footprint", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
