"""The paper's tables: recipes carried out on a small model, a row a stage and none twice; and what they name exists."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from rich.progress import Progress

from benchmarks import paper, paper_tables, record, rows
from benchmarks.__main__ import main
from compress import recipe as recipes
from compress.checkpoint import POCKET, Checkpoint
from compress.recipe import Recipe
from compress.weights.architectures import QWEN2_AUDIO_7B
from compress.weights.size import Layout, plan_size
from tests.compress import toy_pipeline

TABLES = {table.table: table for table in paper_tables.load().tables}


def carry_out(wanted: list[Recipe], work: Path, file: Path) -> tuple[list[rows.Row], str]:
    """Rows appended to a file, and what was printed."""
    printed = io.StringIO()
    progress = Progress(console=Console(file=printed, width=200), disable=True)
    known = rows.by_stage(rows.read(file))
    found = [record.append(file, ["paper"], one) for one in paper.carry_out(wanted, work, known, progress)]
    return found, printed.getvalue()


@pytest.fixture
def toys(tmp_path: Path) -> list[Recipe]:
    """Two recipes, of which the second goes a stage further."""
    toy_pipeline.write(tmp_path, Checkpoint.open(POCKET).load_processor())
    after = dict.fromkeys(["distill", "prune-more", "recover", "qlora", "export"])
    for name, stages in {"tuned": {"prune": None, **after}, "pruned": after}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "extends": "toy", "stages": stages}))
    return [recipes.load(tmp_path / f"{name}.yaml") for name in ("tuned", "pruned")]


def test_every_stage_has_a_row_and_no_row_comes_twice(toys: list[Recipe], tmp_path: Path) -> None:
    work, file = tmp_path / "work", tmp_path / "paper.jsonl"
    found, printed = carry_out(toys, work, file)
    stages = [("tuned", "baseline"), ("tuned", "finetune"), ("pruned", "baseline"), ("pruned", "finetune")]
    assert [(row["recipe"], row["stage"]) for row in found] == [*stages, ("pruned", "prune")]
    assert "1 of 2: tuned; after it: pruned" in printed
    assert "finetune: taken over from tuned" in printed
    last = found[-1]
    assert (last["language"], last["split"], last["paper_parity"]) == ("de", "report", False)
    assert last["layers"] == {"tower": 1, "decoder": 2}
    assert last["search"]["metric"] == "chrF++"
    assert len(last["removed"]) == len(last["search"]["scores"]) == 1
    assert {one["metric"] for one in last["scores"]} == {"BLEU", "chrF++"}
    assert all({"value", "low", "high", "signature", "split"} <= one.keys() for one in last["scores"])
    assert last["stored_elements"] == last["parameters"] < found[-2]["parameters"]
    assert last["bytes"] == 2 * last["parameters"]
    assert (found[1]["n_steps"], found[1]["n_examples"]) == (3, 5)
    assert rows.read(file) == found
    assert carry_out(toys, work, file)[0] == []


def test_what_cannot_be_searched_for_is_left_out_and_named(tmp_path: Path) -> None:
    by_comet = recipes.load("pocket-ablation-prune-by-comet-de", ["stages.prune.comet_model=missing.ckpt"])
    found, printed = carry_out([by_comet], tmp_path / "work", tmp_path / "paper.jsonl")
    assert found == []
    assert "left out: pocket-ablation-prune-by-comet-de: there is no COMET checkpoint missing.ckpt" in printed
    assert not (tmp_path / "work").exists()


def test_recipes_are_chosen_by_table_language_and_name() -> None:
    names = [one.name for one in paper.chosen(["1"], ["zh", "de"])]
    assert names == [
        "pocket-setup1-zh",
        "pocket-ablation-no-distillation-zh",
        "pocket-setup1-de",
        "pocket-ablation-no-distillation-de",
    ]
    assert [one.name for one in paper.chosen(["1", "2"], ["de"], ["pocket-setup2-de"])] == ["pocket-setup2-de"]
    everything = paper.chosen(list(TABLES), paper.LANGUAGES)
    assert len({one.name for one in everything}) == len(everything)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--recipes", "pocket-setup3-de"], "no recipe pocket-setup3-de in these tables; recipes: pocket-setup1-de"),
        (["--tables", "1", "--recipes", "pocket-setup2-de"], "no recipe pocket-setup2-de in these tables"),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["paper", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- the tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", TABLES)
def test_every_row_of_ours_is_a_stage_of_a_shipped_recipe(number: str) -> None:
    for language in paper.LANGUAGES:
        for row in TABLES[number].rows:
            place = row.place(language)
            if place is None:
                assert row.reason
                continue
            recipe = recipes.load(place[0])
            assert place[1] in ("baseline", *(stage.name for stage in recipe.stages))
            # those that it names in turn, by their places
            assert number == "4.6" or f"Table {number}" in recipe.about or place[1] in ("baseline", "finetune"), place


def test_the_papers_tables_agree_with_each_other() -> None:
    def figures(number: str, row: int) -> Any:
        return TABLES[number].rows[row].de, TABLES[number].rows[row].zh

    assert figures("1", 0) == figures("2", 0) == figures("4", 1)
    assert figures("1", 1) == figures("2", 1)
    assert figures("2", 2) == figures("5", 4) == figures("6", 0) == figures("4.6", 0)
    assert figures("2", 3) == figures("5", 5) == figures("6", 1) == figures("4.6", 2)
    assert figures("7", 0)[0] == figures("2", 2)[0]
    assert figures("7", 1)[0] == figures("2", 3)[0]
    assert figures("3", 1)[0] == figures("5", 1)[0]
    assert figures("8", 3)[0] == figures("2", 5)[0]


def test_a_shorter_list_of_layers_is_the_beginning_of_a_longer_one() -> None:
    searched = [row.layers for row in TABLES["6"].rows if row.layers]
    for language in paper.LANGUAGES:
        longest = searched[-1][language]
        assert len(set(longest)) == len(longest) == 16
        assert all(longest[: len(one[language])] == one[language] for one in searched)
        assert [len(one[language]) for one in searched] == [8, 10, 12, 16]
        assert TABLES["5"].rows[4].layers == searched[0]


def test_the_papers_sizes_are_those_of_the_architecture() -> None:
    whole = plan_size(QWEN2_AUDIO_7B, Layout.BF16)
    assert TABLES["1"].rows[0].params == pytest.approx(whole.logical_parameters / 1e9, abs=0.01)
    in_4_bits = plan_size(QWEN2_AUDIO_7B, Layout.PAPER)
    assert TABLES["1"].rows[3].params == pytest.approx(in_4_bits.stored_elements / 1e9, abs=0.01)
    assert TABLES["1"].rows[3].storage == pytest.approx(in_4_bits.tensor_bytes / 1e9, abs=0.01)
    for row, n_layers in zip(TABLES["6"].rows[::2], (24, 22, 20, 16), strict=True):
        size = plan_size(QWEN2_AUDIO_7B.keep(32, n_layers), Layout.BF16)
        assert row.params == pytest.approx(size.logical_parameters / 1e9, abs=0.01)
        assert row.storage == pytest.approx(size.tensor_bytes / 1e9, abs=0.01)


def test_a_row_is_one_line_of_json(tmp_path: Path) -> None:
    row = record.append(tmp_path / "rows.jsonl", ["paper"], {"text": "a\u2028b"})
    assert rows.read(tmp_path / "rows.jsonl") == [row]
    assert json.loads((tmp_path / "rows.jsonl").read_text())["text"] == "a\u2028b"
