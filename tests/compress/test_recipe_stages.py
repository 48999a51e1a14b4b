"""What is common to all stages of a recipe."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from compress.recipe_stages import Distill, Export, Finetune, Optimisation, Prune, Qlora, Stage


def test_a_stage_is_called_after_its_verb_unless_it_has_a_name() -> None:
    assert [kind.model_fields["stage"].default for kind in get_args(get_args(Stage)[0])] == [
        "finetune",
        "prune",
        "distill",
        "qlora",
        "export",
    ]
    assert (Finetune().name, Prune(n_remove=1).name, Distill(teacher="t").name) == ("finetune", "prune", "distill")
    assert (Qlora().name, Export().name, Finetune(name="recover").name) == ("qlora", "export", "recover")
    with pytest.raises(ValidationError, match="pattern"):
        Finetune(name="a/b")


def test_int8_embeddings_are_for_vllms_layouts_and_change_no_other_settings() -> None:
    assert "embeddings" not in Export(layout="w4a16").model_dump()
    assert Export(layout="w4a16", embeddings="int8").model_dump()["embeddings"] == "int8"
    with pytest.raises(ValidationError, match="embeddings int8 are for layouts w4a16, int8, fp8"):
        Export(layout="compact", embeddings="int8")


def test_a_stage_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Prune(n_remove=1).n_remove = 2  # type: ignore[misc]  # that is the point
    with pytest.raises(ValidationError, match="frozen"):
        Optimisation().epochs = 9  # type: ignore[misc]
