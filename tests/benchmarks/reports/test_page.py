"""RESULTS.md is what the rows render to; what it says of the paper's order is computed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import paper_tables, record
from benchmarks.__main__ import main
from benchmarks.paper_tables import PaperTable
from benchmarks.reports import page, paper
from benchmarks.rows import Row, latest

PAPER = paper_tables.load()
TABLE_1 = PAPER.tables[0]


def row(recipe: str, stage: str, bleu: float, chrf: float, comet: float | None = None, **more: Any) -> Row:
    """A row with scores whose intervals reach a point to both sides."""
    scores = [
        {"metric": metric, "value": value, "low": value - 1, "high": value + 1, "n": 200, "group": group}
        | {"signature": f"signature of {metric}", "split": "report", "language": "de"}
        for metric, value in (("BLEU", bleu), ("chrF++", chrf), ("COMET", comet))
        if value is not None
        for group in ("", "talks, seen voices")
    ]
    size = {"parameters": 19_800_000, "stored_elements": 19_700_000, "bytes": 39_600_000}
    return {"recipe": recipe, "stage": stage, "paper_parity": False, "scores": scores, **size, **more}


def known(*listed: Row) -> dict[tuple[str, str], Row]:
    return {(one["recipe"], one["stage"]): one for one in listed}


def section(table: PaperTable, *listed: Row) -> str:
    return paper.render(PAPER.model_copy(update={"tables": (table,)}), known(*listed)).partition("### ")[2]


FOUR = [
    row("pocket-setup1-de", "baseline", 10, 30),
    row("pocket-setup1-de", "finetune", 20, 40.5),
    row("pocket-ablation-no-distillation-de", "qlora", 19.5, 41),
    row("pocket-setup1-de", "qlora", 25, 50),
]


def test_the_page_is_what_the_rows_render_to(tmp_path: Path) -> None:
    drawn = page.draw(record.RESULTS, tmp_path)
    assert page.PAGE.read_text(encoding="utf-8") == page.render(record.RESULTS, drawn), "run `make results`"
    shown = page.PAGE.parent / page.FIGURES
    assert sorted(file.stem for file in shown.iterdir()) == sorted(drawn)
    for name in drawn:
        file = f"{name}.svg"
        assert (shown / file).read_text() == (tmp_path / file).read_text(), "run `make results`"


def test_the_command_writes_the_page_and_no_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, results = tmp_path / "RESULTS.md", tmp_path / "results"
    assert main(["results", "--results", str(results), "--page", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    assert file.read_text().startswith("# Results\n")
    assert not results.exists()


def test_figures_stand_side_by_side() -> None:
    text = section(TABLE_1, *FOUR)
    assert "| full fine-tuning | 39.28 | 65.27 | 56.32 | 8.40 | 16.79 | 20.00 (19.0–21.0) | 40.50 (39.5–41.5) |" in text
    assert "| 19,800,000 | 19,700,000 | 39.6 |" in text
    assert "- BLEU, German, 200 sentences: `signature of BLEU`" in text
    # Chinese has not been run
    assert text.count("| not run yet |") == 4


def test_the_order_of_rows_is_compared_pair_by_pair() -> None:
    text = section(TABLE_1, *FOUR)
    # the paper: baseline < full fine-tuning < QLoRA < distilled, by both metrics
    assert (
        "By BLEU, 5 of 6 pairs of rows are in the paper's order, 5 with intervals apart; "
        "in the other: full fine-tuning / QLoRA." in text
    )
    assert "By chrF++, 6 of 6 pairs of rows are in the paper's order, 5 with intervals apart." in text
    assert "*QLoRA, distilled* keeps 124.2 % of what full fine-tuning reaches, the mean of BLEU and chrF++;" in text
    assert "in the paper 107.2 %." in text


def test_a_difference_that_chance_does_not_explain_is_marked() -> None:
    worse = row("pocket-setup1-de", "qlora", 5, 50)
    assert "baseline / QLoRA, distilled (intervals apart)" in section(TABLE_1, *FOUR[:3], worse)


def test_nothing_is_said_of_rows_that_are_not_there() -> None:
    assert "pairs" not in section(TABLE_1)
    assert "By BLEU, 1 of 1 pair of rows is in the paper's order, 1 with intervals apart." in section(
        TABLE_1, *FOUR[:2]
    )


def test_the_search_split_is_told_apart_from_the_report() -> None:
    search = {"metric": "chrF++", "scores": [61.5, 55.25]}
    pruned = row("pocket-ablation-prune-3-of-12-de", "prune", 3, 20, removed=[5, 8], search=search)
    (table,) = (one for one in PAPER.tables if one.table == "5")
    text = section(table, pruned)
    assert (
        "*searched by chrF++ / chrF*: layers removed 5, 8; chrF++ on the search split after each: 61.50, 55.25; "
        "the paper's: 13, 3, 20, 9, 29, 1, 19, 27." in text
    )
    assert "on the report split (paper parity) after each" in section(table, pruned | {"paper_parity": True})


def test_comet_is_the_papers_alone() -> None:
    text = page.render(record.RESULTS)
    assert "our COMET" not in text
    for line in text.splitlines():
        if line.startswith("| searched by COMET"):
            assert "| needs COMET's weights |" in line


def test_our_comet_has_a_column_where_any_row_has_it() -> None:
    judged = [row("pocket-setup1-de", "finetune", 20, 40.5, 50.0), row("pocket-setup1-de", "qlora", 25, 50, -10.0)]
    text = section(TABLE_1, *FOUR, *judged)
    german, _, chinese = text.partition("**Chinese**")
    assert "| our BLEU | our chrF++ | our COMET | parameters |" in german
    assert "our COMET" not in chinese
    assert "| 20.00 (19.0–21.0) | 40.50 (39.5–41.5) | 50.00 (49.0–51.0) | 19,800,000 |" in german
    assert "| 10.00 (9.0–11.0) | 30.00 (29.0–31.0) | – | 19,800,000 |" in german  # the baseline
    assert (
        "By COMET, 0 of 1 pair of rows is in the paper's order, 0 with intervals apart; "
        "in the other: full fine-tuning / QLoRA, distilled (intervals apart)." in german
    )
    assert "keeps 76.2 % of what full fine-tuning reaches, the mean of BLEU, chrF++ and COMET;" in german
    assert "`signature of COMET`" in text
    worthless = row("pocket-setup1-de", "finetune", 20, 40.5, -50.0)
    assert "the mean of BLEU and chrF++;" in section(TABLE_1, *FOUR, *judged, worthless)


def test_the_page_says_whose_comet_it_is() -> None:
    assert "COMET is the paper's alone" in paper.render(PAPER, known(*FOUR))
    assert "which its signature names" in paper.render(PAPER, known(row("x", "y", 1, 2, 3)))


def test_the_last_row_of_the_same_settings_counts() -> None:
    rows = [
        {"date": "1", "commit": "a", "utterances": 40, "modes": 1},
        {"date": "2", "commit": "b", "utterances": 40, "modes": 2},
        {"date": "3", "commit": "b", "utterances": 60, "modes": 3},
    ]
    assert [one["modes"] for one in latest(rows, "modes")] == [2, 3]


def test_searches_and_the_encoder_have_their_tables(tmp_path: Path) -> None:
    circumstances: dict[str, Any] = {
        "date": "2026-01-01",
        "commit": "abc",
        "command": "python -m benchmarks search --rounds 1",
        "machine": {"cpu": "A CPU", "cores": 2, "gpu": None},
        "versions": {"python": "3.11"},
    }
    mode = {"removed": [5, 8], "scores": [76.42, 74.03], "decoded": 1030, "of": 1080}
    search = circumstances | {
        "model": {"name": "pocket"},
        "language": "de",
        "domain": "daily",
        "utterances": 40,
        "modes": {
            "naive": mode | {"times_faster_than": {"exact": {"median": 0.05, "low": 0.04, "high": 0.06}}},
            "exact": mode | {"times_faster_than": {"naive": {"median": 18.95, "low": 17.5, "high": 20}}},
        },
    }
    ratio = {"ratio": 7.18, "low": 6.65, "high": 7.57}
    clip = {"clip_s": 5.0, "work": 8.72, "max_difference": 8.6e-6, "encoder": ratio, "speech": ratio}
    encoder = circumstances | {"model": {"name": "pocket"}, "device": "cpu", "dtype": "float32", "repeats": 20}
    for name, one in {"search": search, "encoder": encoder | {"clips": [clip]}}.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(one) + "\n")
    text = page.render(tmp_path)
    assert "pocket, daily into German, 40 utterances:" in text
    assert "| exact | 5 8 | 74.03 | 1,030 of 1,080 | 18.95 (17.50–20.00) |" in text
    assert "| 5 s | 8.72 | 7.18 (6.65–7.57) | 7.18 (6.65–7.57) | 9e-06 |" in text
    assert "- `python -m benchmarks search` at abc: A CPU, 2 cores; python 3.11" in text
    assert not re.search(r"\n\n\n", text)
