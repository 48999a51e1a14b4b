"""The picture of a search shows every candidate, what went, and what could only be bounded."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import pytest

from compress.search.figure import draw
from compress.search.greedy import Evaluation, Round

# layers 1 to 4 of six are candidates; in the second round one was given up before it had a bound
ROUNDS: Final = [
    Round(
        (),
        (
            Evaluation(1, 40.25, 40.25, ()),
            Evaluation(2, 61.04, 61.04, ()),
            Evaluation(3, 12.3, 12.3, ()),
            Evaluation(4, None, 33.33, ()),
        ),
        2,
    ),
    Round(
        (2,), (Evaluation(1, 40.25, 40.25, ()), Evaluation(3, 35.55, 35.55, ()), Evaluation(4, None, math.inf, ())), 1
    ),
]


def texts(file: Path) -> list[str]:
    """What is written in the picture, in its order."""
    tree = ET.fromstring(file.read_text())
    return [element.text or "" for element in tree.iter("{http://www.w3.org/2000/svg}text")]


def test_every_candidate_has_its_score_or_its_bound(tmp_path: Path) -> None:
    draw(ROUNDS, "chrF++", tmp_path / "new" / "search.svg")
    found = texts(tmp_path / "new" / "search.svg")
    cells = [text for text in found if re.search(r"\d\.\d|–", text)]
    assert cells == ["40.2", "61.0", "12.3", "≤ 33.3", "40.2", "35.5", "–"]
    assert found[:4] == ["1", "2", "3", "4"]
    assert {"layer left out", "round", "chrF++"} <= set(found)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["search.svg"]


def test_the_chosen_layers_stand_out(tmp_path: Path) -> None:
    draw(ROUNDS, "chrF++", tmp_path / "search.svg")
    content = (tmp_path / "search.svg").read_text()
    bold = re.findall(r'<text style="[^"]*\b(?:700|bold)\b[^>]*>([^<]+)<', content)
    assert bold == ["61.0", "40.2"]
    assert content.count("stroke-width: 2;") == 2  # their frames


def test_it_has_no_ground_of_its_own_and_is_the_same_every_time(tmp_path: Path) -> None:
    drawn = []
    for name in ("one.svg", "other.svg"):
        draw(ROUNDS, "chrF", tmp_path / name)
        drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1]
    ground = re.search(rb'<g id="patch_1">\s*<path [^>]*style="([^"]*)"', drawn[0])
    assert ground is not None
    assert b"fill: none" in ground[1] or b"opacity: 0;" in ground[1] + b";"


def test_one_round_of_equal_scores_has_a_picture_and_none_has_not(tmp_path: Path) -> None:
    draw([Round((), (Evaluation(0, 5.0, 5.0, ()), Evaluation(1, 5.0, 5.0, ())), 0)], "BLEU", tmp_path / "flat.svg")
    assert texts(tmp_path / "flat.svg").count("5.0") >= 2
    with pytest.raises(ValueError, match="without rounds"):
        draw([], "BLEU", tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()
