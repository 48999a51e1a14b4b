"""The model card says what the checkpoint says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from compress import card
from compress.checkpoint import POCKET
from compress.score import Score
from compress.weights.size import measure

SCORE: dict[str, Any] = {
    "metric": "chrF++",
    "value": 58.254,
    "low": 54.62,
    "high": 61.87,
    "n": 100,
    "signature": "nrefs:1|bs:1000|version:2.6.0",
    "split": "report",
    "language": "de",
    "group": "daily, seen voices",
}
LINEAGE: dict[str, Any] = {
    "name": "student",
    "parent": "pruned",
    "layers": [0, 2, 5],
    "language": "de",
    "history": [
        {"stage": "prune", "name": "prune", "source": "pocket", "n_remove": 9, "metric": None},
        {"stage": "qlora", "name": "qlora", "source": "pruned", "rank": 64, "title": "a|b"},
    ],
    "versions": {"torch": "2.13.0", "peft": "0.21.2"},
    "trainable": {"modules": 417, "parameters": 207_437_824, "share": 0.024108},
    "scores": [SCORE],
}


def render(**changes: Any) -> str:
    lineage = {key: value for key, value in (LINEAGE | changes).items() if value is not None}
    return card.render(lineage, measure(POCKET))


def test_the_front_matter_is_what_the_hub_reads() -> None:
    _, front, body = render().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "language": ["en", "de"],
        "library_name": "transformers",
        "tags": ["speech-translation"],
    }
    assert body.startswith("\n# student\n")


def test_the_languages_are_those_of_the_scores_where_the_lineage_names_none() -> None:
    scores = [SCORE, SCORE | {"language": "zh"}, SCORE]
    assert yaml.safe_load(render(language=None, scores=scores).split("---\n")[1])["language"] == ["en", "de", "zh"]
    assert "language" not in yaml.safe_load(render(language=None, scores=None).split("---\n")[1])


def test_history_layers_and_trained_share_are_told() -> None:
    text = render()
    assert "Made from pruned." in text
    assert "numbered as in the model it was pruned from: 0, 2, 5." in text
    assert "207,437,824 parameters in 417 modules, 2.41% of all" in text
    assert "| 1 | prune | pocket | n_remove 9 |" in text
    assert '| 2 | qlora | pruned | rank 64; title "a/b" |' in text
    assert "With torch 2.13.0, peft 0.21.2." in text


def test_scores_have_split_interval_and_signature() -> None:
    text = render()
    assert "| report | daily, seen voices | de | chrF++ | 58.25 (54.62–61.87) | 100 |" in text
    assert text.count("`nrefs:1|bs:1000|version:2.6.0`") == 1
    assert "Not scored" not in text


def test_comet_is_explained_where_it_is_shown() -> None:
    comet = SCORE | {"metric": "COMET", "value": -41.96, "low": -50.0, "high": -33.3, "signature": "nrefs:1|model:x"}
    text = render(scores=[SCORE, comet])
    assert "COMET is times 100, and has no bounds." in text
    assert "| COMET | -41.96 (-50.00–-33.30) |" in text
    assert "- COMET, de: `nrefs:1|model:x`" in text
    assert "COMET" not in render(scores=[SCORE])


def test_without_scores_it_says_so() -> None:
    assert "## Scores\n\nNot scored.\n" in render(scores=None)


def test_the_size_is_that_of_the_files() -> None:
    size, text = measure(POCKET), render()
    assert f"{size.logical_parameters:,} parameters in {size.tensor_bytes:,} bytes, 16.00 bits a weight." in text
    decoder = size.groups["decoder"]
    assert f"| decoder | {decoder.logical:,} | {decoder.stored:,} | {decoder.n_bytes:,} |" in text


def test_the_pocket_models_own_scores_are_understood() -> None:
    lineage = json.loads((POCKET / "lineage.json").read_text())
    text = card.render(lineage, measure(POCKET))
    first = lineage["scores"][0]
    assert f"| report | {first['stratum']} | de | BLEU | {first['value']:.2f} (" in text


def test_little_is_enough() -> None:
    text = card.render({}, measure(POCKET))
    assert "# checkpoint\n" in text
    assert "How it was made" not in text


def test_scores_are_entered_in_lineage_and_card_once(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(POCKET, directory)
    (directory / "lineage.json").write_text(json.dumps(LINEAGE | {"scores": []}))
    card.write(directory)
    assert "Not scored" in (directory / "README.md").read_text()
    files = [directory / name for name in ("lineage.json", "README.md")]
    made: list[list[int]] = []
    for _ in range(2):
        card.enter(directory, [Score(**SCORE)], paper_parity=True)
        made.append([file.stat().st_mtime_ns for file in files])
    assert made[0] == made[1]
    entered = LINEAGE | {"scores": [SCORE | {"paper_parity": True}]}
    assert json.loads(files[0].read_text()) == entered
    assert files[1].read_text() == card.render(entered, measure(directory))
    assert "| report, searched on, too | daily, seen voices | de | chrF++ | 58.25" in files[1].read_text()
    assert not list(directory.glob("*.tmp"))
