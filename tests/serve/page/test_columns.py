from __future__ import annotations

from typing import Any

from serve.client import ApiError, Ended
from serve.page.columns import Column, columns
from serve.page.runs import Run

SCORE = {
    "language": "de", "metric": "BLEU", "value": 59.82, "low": 54.8, "high": 64.7, "n": 100, "signature": "nrefs:1",
    "split": "report", "group": "daily", "paper_parity": False,
}  # fmt: skip


def variant(name: str, **facts: Any) -> dict[str, Any]:
    known = {"bytes": 39_602_216, "parameters": 8_397_094_912, "layers": [0, 2], "format": "bf16", "parent": "<p>"}
    return {"id": name, "scores": [], **known, **facts}


def test_a_column_says_how_big_a_model_is_and_where_it_comes_from() -> None:
    html = columns([Column(variant("big"), "Waiting …")], "de")
    for fact in ("39.6 MB", "8.40 billion", "<dd>2</dd>", "bf16", "&lt;p&gt;", "Waiting …"):
        assert fact in html
    unknown = variant("odd", parameters=None, layers=None, format=None, parent=None)
    assert columns([Column(unknown, "")], "de").count("<dd>–</dd>") == 4 + 3, "facts, and times that are not there yet"


def test_scores_are_those_of_the_language_by_split_and_group() -> None:
    other = [
        {**SCORE, "metric": "chrF++", "value": 70.0},
        {**SCORE, "group": "phone", "value": 69.1},
        {**SCORE, "split": "search", "group": "", "value": 1.0, "paper_parity": True},
        {**SCORE, "language": "zh", "value": 99.9},
    ]
    html = columns([Column(variant("big", scores=[SCORE, *other]), "")], "de")
    assert "<th>Scores, report split</th><th>BLEU</th><th>chrF++</th>" in html
    assert '>59.8</td><td title="54.8 to 64.7, 100 sentences, nrefs:1">70.0</td>' in html
    assert ">69.1</td><td>–</td>" in html
    assert "<th>Scores, search split</th>" in html
    assert '<th>all sentences</th><td title="the layers were searched on these sentences; ' in html
    assert "99.9" not in html
    assert "not measured" in columns([Column(variant("big", scores=[SCORE]), "")], "zh")


def test_a_column_follows_its_translation() -> None:
    column = Column(variant("big"), "Waiting …", Run("Guten"))
    assert "k-running" in columns([column], "de")
    column.run = Run("Guten", Ended("Guten", (), {"total_s": 1.5}))
    assert "k-done" in columns([column], "de")
    assert "<dd>1.50 s</dd>" in columns([column], "de")
    column.run = Run(error=ApiError(429, "all places are taken", retry_after_s=1))
    assert "Busy: try again in 1 s" in columns([column], "de")


def test_who_has_one_model_is_told_how_to_load_more() -> None:
    one, two = Column(variant("big"), ""), Column(variant("small"), "")
    assert "python -m serve --model" in columns([one], "de")
    assert "python -m serve" not in columns([one, two], "de")
