"""What is announced before a run: the paper's sizes, and the sizes of real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2AudioProcessor

from compress import recipe as recipes
from compress.plan import Need, plan
from compress.recipe import Data, Recipe
from compress.recipe_files import RECIPES
from compress.weights import storage
from compress.weights.size import measure
from compress.weights.storage import Form
from tests.compress import narrow, rounded

GB = 1e9
# bitsandbytes writes each weight's mean scale in as many digits as it takes
STATE_BYTES = 40


def needs(name: str, *settings: str) -> dict[str, Need]:
    return {need.stage: need for need in plan(recipes.load(name, settings)).needs}


# --- against the paper ------------------------------------------------------------------------------------------


def test_the_papers_setup_1() -> None:
    found = needs("setup1-de")
    assert list(found) == ["finetune", "distill", "qlora", "export"]
    assert {need.layers for need in found.values()} == {(32, 32)}
    assert found["finetune"].result_bytes / GB == pytest.approx(16.794, abs=0.001)
    assert found["distill"].result_bytes == 0
    assert found["qlora"].result_bytes / GB == pytest.approx(9.645, abs=0.001)
    assert found["export"].result_bytes == found["qlora"].result_bytes


def test_the_papers_setup_2() -> None:
    found = needs("setup2-de")
    assert [need.layers for need in found.values()] == [(32, 32), *[(32, 24)] * 5]
    for name in ("prune", "recover"):
        assert found[name].result_bytes / GB == pytest.approx(13.556, abs=0.001)
    for name in ("qlora", "export"):
        assert found[name].result_bytes / GB == pytest.approx(8.649, abs=0.001)


@pytest.mark.parametrize(
    ("recipe", "settings", "gigabytes"),
    [
        ("setup1-de", ["stages.export.layout=compact"], 6.656),
        ("setup1-de", ["stages.export.layout=compact", "stages.export.merge=true"], 6.241),
        ("setup2-de", ["stages.export.layout=compact"], 5.741),
        ("setup2-de", ["stages.export.layout=bf16", "stages.export.merge=true"], 13.556),
        ("ablation-prune-encoder-and-decoder-de", [], 13.241),
        ("ablation-prune-16-of-32-de", [], 10.318),
    ],
)
def test_what_is_shipped_is_as_big_as_the_paper_says(recipe: str, settings: list[str], gigabytes: float) -> None:
    *_, last = needs(recipe, *settings).values()
    assert last.result_bytes / GB == pytest.approx(gigabytes, abs=0.002)


def test_memory_and_states_of_training() -> None:
    n_whole, n_pruned, n_adapter = 8_397_094_912, 6_777_929_728, 167_460_864
    found = needs("setup2-de")
    # a weight in fp32, its gradient and two moments; two states without the gradient while one replaces the other
    assert (found["finetune"].memory_bytes, found["finetune"].work_bytes) == (16 * n_whole, 24 * n_whole)
    assert (found["recover"].memory_bytes, found["recover"].work_bytes) == (16 * n_pruned, 24 * n_pruned)
    assert found["prune"].memory_bytes == 4 * n_whole
    assert found["distill"].memory_bytes == 4 * n_whole  # the teacher's
    qlora = found["qlora"]
    assert qlora.memory_bytes == qlora.result_bytes + 12 * n_adapter
    assert qlora.work_bytes == qlora.result_bytes + 24 * n_adapter
    half = needs("setup2-de", "stages.finetune.optimisation.master_weights=bf16")["finetune"]
    assert (half.memory_bytes, half.work_bytes) == (8 * n_whole, 12 * n_whole)


def test_recovery_needs_room_for_two_models_on_the_way() -> None:
    need = needs("ablation-immediate-recovery-de")["prune"]
    assert need.memory_bytes == 16 * 8_397_094_912
    assert need.work_bytes == 24 * 8_397_094_912 + 2 * 2 * (8_397_094_912 - 202_395_648)


def test_the_whole_run() -> None:
    found = plan(recipes.load("setup1-de"))
    assert (found.recipe, found.model) == ("setup1-de", "Qwen/Qwen2-Audio-7B-Instruct")
    assert found.work_bytes == sum(need.result_bytes for need in found.needs) + 24 * 8_397_094_912
    assert found.memory_bytes == 16 * 8_397_094_912
    assert found.download_bytes == 2 * 8_397_094_912


def test_data_are_told_in_words() -> None:
    found = needs("setup2-de")
    assert found["finetune"].data == "1 x all acl6060 references"
    assert found["prune"].data == "100 utterances to search on, the reported ones"
    assert found["distill"].data == "all acl6060 utterances to translate"
    assert found["qlora"].data == "10 x all acl6060 references + 10 x the distilled ones + 100,000 out of domain"
    pocket = needs("pocket-setup2-de")
    assert pocket["prune"].data == "60 utterances to search on"
    assert pocket["finetune"].data == "1 x 640 references"


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_recipe_can_be_planned(file: Path) -> None:
    recipe = recipes.load(file)
    found = plan(recipe)
    assert [need.stage for need in found.needs] == [stage.name for stage in recipe.stages]
    assert all(need.result_bytes or need.verb == "distill" for need in found.needs)
    assert found.audio_bytes > 0
    assert (found.download_bytes > 0) == (recipe.model != "pocket")


# --- against files ----------------------------------------------------------------------------------------------


def planned(source: Path, *stages: dict[str, Any]) -> int:
    """Bytes of the last stage's result."""
    recipe = Recipe.model_validate({
        "name": "toy",
        "model": str(source),
        "language": "de",
        "data": Data(source="pocket", domain="talks"),
        "stages": stages,
    })  # fmt: skip
    return plan(recipe).needs[-1].result_bytes


@pytest.mark.parametrize(
    ("settings", "form"),
    [
        ({}, Form("all", torch.float32)),
        ({"modules": "decoder"}, Form("decoder", torch.float32)),
        ({"quantisation": "none"}, Form(None, torch.bfloat16)),
        ({"rank": 4}, Form("all", torch.float32)),
    ],
)
def test_adapted_checkpoints_are_as_big_as_planned(
    settings: dict[str, Any], form: Form, processor: Qwen2AudioProcessor, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="this environment is behind requirements/test.txt")
    source = narrow.checkpoint(processor, tmp_path / "narrow")
    stage = narrow.stage(**settings)
    made = narrow.adapted(source, tmp_path / "adapted", stage, form)
    qlora = stage.model_dump()
    tolerance = STATE_BYTES * narrow.N_LINEARS
    assert measure(made.path).tensor_bytes == pytest.approx(planned(source.path, qlora), abs=tolerance)
    for layout, merge, shipped in [
        ("bf16", False, Form(None, torch.bfloat16)),
        ("bf16", True, Form(None, torch.bfloat16, merge=True)),
        ("compact", False, Form("all", torch.bfloat16)),
        ("compact", True, Form("all", torch.bfloat16, merge=True)),
        ("paper", False, Form("all", torch.float32)),
    ]:
        directory = tmp_path / f"{layout}-{merge}"
        storage.rewrite(made, directory, shipped)
        wanted = planned(source.path, qlora, {"stage": "export", "layout": layout, "merge": merge})
        assert measure(directory).tensor_bytes == pytest.approx(wanted, abs=tolerance), directory.name


def test_plain_checkpoints_are_as_big_as_planned(processor: Qwen2AudioProcessor, tmp_path: Path) -> None:
    source = narrow.checkpoint(processor, tmp_path / "narrow")
    assert planned(source.path, {"stage": "finetune"}) == measure(source.path).tensor_bytes
    assert planned(source.path, {"stage": "export", "layout": "bf16"}) == measure(source.path).tensor_bytes


def test_int8_embeddings_are_planned(processor: Qwen2AudioProcessor, tmp_path: Path) -> None:
    source = narrow.checkpoint(processor, tmp_path / "narrow")
    made = rounded.checkpoint(source, tmp_path / "w4a16", "w4a16", "int8")
    stage = {"stage": "export", "layout": "w4a16", "embeddings": "int8"}
    assert planned(source.path, stage) == measure(made.path).tensor_bytes


def test_a_recipe_without_stages_needs_nothing() -> None:
    found = plan(recipes.load("pocket-ablation-prompt-instruct-de"))
    assert (found.needs, found.work_bytes, found.memory_bytes, found.download_bytes) == ((), 0, 0, 0)
    assert found.audio_bytes > 0  # it is scored
