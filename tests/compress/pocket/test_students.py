"""The students of the second setup, as they lie beside the pocket model that they were made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress import card, doctor, export
from compress.audio import decode
from compress.checkpoint import POCKET, Checkpoint, read_object
from compress.prompt import translation
from compress.weights import size
from tests.serve.language import assert_chinese, assert_german

STUDENTS = POCKET.with_name("students")
CLIP = Path(__file__).parents[3] / "serve" / "examples" / "phone_gate_change.flac"
MAX_BYTES = 20_000_000


@pytest.fixture(params=["de", "zh"])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def student(language: str) -> Checkpoint:
    return Checkpoint.open(STUDENTS / f"pocket-setup2-{language}-export")


def test_it_is_half_of_the_model_it_was_made_from(student: Checkpoint, language: str) -> None:
    measured = size.measure(student.path)
    assert measured.tensor_bytes < MAX_BYTES
    assert measured.tensor_bytes < size.measure(POCKET).tensor_bytes / 2
    assert (student.lineage["language"], len(student.lineage["layers"])) == (language, 9)
    stages = [one["name"] for one in student.lineage["history"]]
    assert stages == ["finetune", "prune", "recover", "qlora", "export"]


def test_its_card_says_what_it_is(student: Checkpoint) -> None:
    lineage = read_object(student.path / "lineage.json")
    assert (student.path / card.CARD_FILE).read_text() == card.render(lineage, size.measure(student.path))
    assert {(one["metric"], one["split"]) for one in lineage["scores"] if not one["group"]} >= {("BLEU", "report")}


def test_the_embedded_engine_can_serve_it(student: Checkpoint) -> None:
    engines = {one.name: one.reasons for one in doctor.examine(student.path).engines}
    assert not engines["transformers"]


def test_it_translates(student: Checkpoint, language: str) -> None:
    {"de": assert_german, "zh": assert_chinese}[language](export.try_out(student, decode(CLIP), translation(language)))
