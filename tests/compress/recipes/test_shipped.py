"""Shipped recipes load, are what their names say, and hold the paper's values or those scaled for the pocket model."""

from __future__ import annotations

import json
import re

import pytest

from compress import recipe
from compress.checkpoint import POCKET
from compress.recipe import Data
from compress.recipe_stages import Distill, Export, Finetune, Mix, Prune, Qlora
from tests.compress.recipes.experiments import (
    EXPERIMENTS,
    IN_DOMAIN,
    INSTRUCT,
    LANGUAGES,
    SHIPPED,
    TRAINING,
    between,
    names,
    of,
    optimisation,
)


def test_every_experiment_is_there_at_both_scales_in_both_languages() -> None:
    experiments = [*EXPERIMENTS, *EXPERIMENTS.values()]
    assert sorted(f"{name}-{language}" for name in experiments for language in LANGUAGES) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_it_loads_and_is_what_its_name_says(name: str) -> None:
    found = recipe.load(name)
    assert found.name == name
    assert name.endswith(f"-{found.language}")
    assert name.startswith("pocket-") == (found.model == "pocket") == (found.data.source == "pocket")
    assert {"de": "German:", "zh": "Chinese:"}[found.language] in found.about
    assert re.search(r"\((scaled from )?(Table \d|sections? \d\.\d)", found.about)
    assert ("scaled from" in found.about) == name.startswith("pocket-")


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.endswith("-zh")])
def test_chinese_is_german_but_for_the_language(name: str) -> None:
    assert between(name.removesuffix("zh") + "de", name) == {"language": "zh"}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_metric_of_the_search_is_left_to_the_language(name: str) -> None:
    metrics = [stage.metric for stage in recipe.load(name).stages if isinstance(stage, Prune)]
    assert set(metrics) <= ({"COMET"} if "comet" in name else {None})


# --- the paper's values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("setup", ["setup1", "setup2"])
def test_model_data_and_teacher_are_the_papers(setup: str, language: str) -> None:
    found = recipe.load(f"{setup}-{language}")
    assert (found.model, found.prompt, found.language) == (INSTRUCT, "instruct", language)
    assert found.data == IN_DOMAIN
    teacher = of(found, "finetune")
    assert optimisation(teacher) == TRAINING | {"epochs": 3, "batch_size": 4, "weight_decay": 0.001}
    assert (teacher.mix, teacher.frozen) == (Mix(in_domain=1), ())
    assert of(found, "distill") == Distill(teacher="finetune")
    adapter = of(found, "qlora").model_dump(exclude={"name", "source", "mix", "optimisation"})
    assert adapter == {
        "stage": "qlora",
        "quantisation": "nf4",
        "double_quantisation": True,
        "rank": 64,
        "alpha": 128,
        "dropout": 0.0,
        "rank_stabilised": True,
        "modules": "all",
    }
    assert of(found, "export") == Export(layout="paper")


@pytest.mark.parametrize("language", LANGUAGES)
def test_setup_1_is_the_papers(language: str) -> None:
    found = recipe.load(f"setup1-{language}")
    assert names(found) == ["finetune", "distill", "qlora", "export"]
    assert found.out_of_domain is None
    assert of(found, "qlora").mix == Mix(in_domain=1, distilled=1)
    assert optimisation(of(found, "qlora")) == TRAINING | {"epochs": 4, "batch_size": 4, "weight_decay": 0.0}


@pytest.mark.parametrize("language", LANGUAGES)
def test_setup_2_is_the_papers(language: str) -> None:
    found = recipe.load(f"setup2-{language}")
    assert names(found) == ["finetune", "prune", "distill", "recover", "qlora", "export"]
    prune = of(found, "prune")
    assert (prune.strategy, prune.part, prune.n_remove) == ("greedy", "decoder", 8)
    assert prune.protected == (0, -1)
    assert prune.recovery is None
    recover = of(found, "recover")
    assert (recover.mix, recover.frozen) == (Mix(in_domain=1, distilled=1), ())
    assert optimisation(recover) == TRAINING | {"epochs": 4, "batch_size": 4, "weight_decay": 0.0}
    assert of(found, "qlora").mix == Mix(in_domain=10, distilled=10, out_of_domain=100_000)
    assert optimisation(of(found, "qlora")) == TRAINING | {"epochs": 1, "batch_size": 8, "weight_decay": 0.0}
    assert found.out_of_domain == Data(source="covost2", n_train=100_000, seed=0, on_problem="skip")


def test_what_is_left_out_of_a_recipe_is_the_papers_too() -> None:
    assert optimisation(Finetune()) == TRAINING | {"epochs": 3, "batch_size": 4, "weight_decay": 0.001}
    found = of(recipe.load("setup1-de"), "qlora")
    assert Qlora().model_dump(exclude={"mix", "optimisation"}) == found.model_dump(exclude={"mix", "optimisation"})


# --- scaled for the pocket model --------------------------------------------------------------------------------


@pytest.mark.parametrize("large", EXPERIMENTS)
def test_the_pocket_recipe_has_the_same_stages(large: str) -> None:
    large_stages, small_stages = (recipe.load(f"{name}-de").stages for name in (large, EXPERIMENTS[large]))
    assert [(s.name, s.stage, s.source) for s in small_stages] == [(s.name, s.stage, s.source) for s in large_stages]
    for ours, papers in zip(small_stages, large_stages, strict=True):
        if isinstance(ours, Prune) and isinstance(papers, Prune):
            assert (ours.strategy, ours.part, ours.metric) == (papers.strategy, papers.part, papers.metric)
        if isinstance(ours, Finetune | Qlora) and isinstance(papers, Finetune | Qlora):
            assert [n > 0 for n in ours.mix.model_dump().values()] == [n > 0 for n in papers.mix.model_dump().values()]


def test_pocket_loses_the_same_share_of_its_layers() -> None:
    config = json.loads((POCKET / "config.json").read_text())
    n_layers = {
        "decoder": config["text_config"]["num_hidden_layers"],
        "tower": config["audio_config"]["encoder_layers"],
    }
    for large, small in EXPERIMENTS.items():
        pairs = zip(recipe.load(f"{large}-de").stages, recipe.load(f"{small}-de").stages, strict=True)
        for papers, ours in pairs:
            if isinstance(papers, Prune) and isinstance(ours, Prune):
                # as near as whole layers come
                assert abs(ours.n_remove - papers.n_remove / 32 * n_layers[ours.part]) <= 0.5


def test_pocket_searches_on_another_split_than_it_reports_and_mixes_another_domain_in() -> None:
    found = recipe.load("pocket-setup2-de")
    assert found.data == Data(source="pocket", domain="talks", n_train=640, n_search=60, n_report=100)
    assert not found.data.paper_parity
    assert found.out_of_domain == Data(source="pocket", domain="daily", n_train=800)
