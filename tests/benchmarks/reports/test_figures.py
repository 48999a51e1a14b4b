"""Figures say what the rows say, are the same each time, and are left out where there are no rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.reports import figures


def paper_row(size_mb: float, bleu: float) -> dict[str, Any]:
    score = {"metric": "BLEU", "group": "", "value": bleu, "low": bleu - 1, "high": bleu + 1}
    return {"bytes": size_mb * 1e6, "scores": [score]}


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    file = tmp_path / "none.svg"
    assert not figures.size_and_quality({}, file)
    assert not figures.waits_and_callers([], file)
    assert not figures.one_request([], file)
    assert not figures.layers([{"modes": {"exact": {"removed": [1]}}}], file)
    assert not file.exists()


def test_stages_of_the_setups_are_placed_and_named(tmp_path: Path) -> None:
    papers = {
        ("pocket-setup1-de", "baseline"): paper_row(40, 10),
        ("pocket-setup2-de", "export"): paper_row(17, 15),
        ("pocket-ablation-prune-middle-de", "prune"): paper_row(35, 5),
    }
    one, again = tmp_path / "one.svg", tmp_path / "again.svg"
    assert figures.size_and_quality(papers, one)
    assert figures.size_and_quality(papers, again)
    text = one.read_text()
    assert text == again.read_text()
    for words in ("German", "setup1", "setup2", "baseline", "export", "MB on disk"):
        assert words in text
    assert "Chinese" not in text
    assert "prune" not in text


def test_what_nothing_smaller_beats_is_joined() -> None:
    assert figures._front([(40, 20), (17, 15), (30, 14), (17, 12), (35, 20)]) == [(17, 15), (35, 20)]


def test_callers_and_steps_are_drawn(tmp_path: Path) -> None:
    closed = [
        {
            "clients": n,
            "to_first": {"median": n / 2, "low": n / 3, "high": n},
            "first_text_s": {"p50": 0.1 * n, "p95": 0.2 * n, "p99": 0.3 * n},
        }
        for n in (1, 4)
    ]
    file = tmp_path / "callers.svg"
    assert figures.waits_and_callers([{"closed": closed}], file)
    assert "callers at once" in file.read_text()
    names = ("decode audio", "log-mel", "encoder", "prompt", "decode, batch 1")
    steps = [{"step": name, "dtype": "float32", "took_us": 10.0, "bound_us": 1.0} for name in names]
    assert figures.one_request([{"steps": steps}], file)
    assert "at the speed of light" in file.read_text()


def test_layers_are_drawn_by_the_metric_of_the_language(tmp_path: Path) -> None:
    candidates = [[[1, 50.0, 50.0], [2, None, 40.0], [3, 30.0, 30.0]], [[2, 45.0, 45.0], [3, None, None]]]
    row = {"language": "zh", "modes": {"exact": {"removed": [1, 2], "candidates": candidates}}}
    file = tmp_path / "layers.svg"
    assert figures.layers([row], file)
    text = file.read_text()
    for words in ("layer left out", "chrF", "≤ 40.0", "45.0"):
        assert words in text
    assert "chrF++" not in text
