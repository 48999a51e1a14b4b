"""From a file to a recipe; contradictions are refused, all at once, each with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from compress import dataset, recipe
from compress.errors import RecipeError
from compress.prompt import translation
from compress.recipe_stages import COMET_MODEL, Prune
from tests.compress.recipes.experiments import (
    changes,
    flat,
)


def test_settings_change_a_shipped_recipe() -> None:
    found = recipe.load("setup2-de", ["stages.prune.n_remove=2", "out_of_domain.path=/corpora/covost"])
    wanted = {"stages.prune.n_remove": 2, "out_of_domain.path": "/corpora/covost"}
    assert changes(flat(recipe.load("setup2-de")), flat(found)) == wanted


def test_what_a_setting_misspells_is_named_with_the_keys_there_are() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.load("setup2-de", ["stages.prune.n_remov=2", "dta.seed=1"])
    first, *others = str(caught.value).splitlines()
    assert first == "setup2-de with stages.prune.n_remov=2, dta.seed=1:"
    assert len(others) == 2
    assert others[0].startswith("  stages.prune.n_remov: no such key; keys: name, source, stage, strategy, part, n_rem")
    assert others[1].startswith("  dta: no such key; keys: name, about, model, ")


def test_a_users_file_is_read_as_the_shipped_ones_are(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nextends: pocket-setup2-de\nstages: {prune: {n_remove: 4}}\n")
    found = recipe.load(file)
    assert (found.name, found.about) == ("mine", "")
    assert changes(flat(recipe.load("pocket-setup2-de")), flat(found)) == {"stages.prune.n_remove": 4}


def test_covost_can_be_left_to_the_user_until_it_is_read() -> None:
    left_open = recipe.load("setup2-de").out_of_domain
    assert left_open is not None
    assert left_open.path is None
    with pytest.raises(RecipeError, match="covost2 needs a path"):
        dataset.load(left_open, "de", "train")


def test_it_asks_in_its_own_way() -> None:
    instruct, base = (recipe.load("pocket-setup1-zh", [f"prompt={style}"]) for style in ("instruct", "base"))
    assert instruct.wording == translation("zh", "instruct")
    assert base.wording == translation("zh", "base")


def test_searches_by_comet_take_the_recipes_model() -> None:
    searches = [
        {"stage": "prune", "name": "a", "n_remove": 1, "metric": "COMET"},
        {"stage": "prune", "name": "b", "n_remove": 1, "metric": "COMET", "comet_model": "someone/own"},
        {"stage": "prune", "name": "c", "n_remove": 1},
    ]

    def models(**settings: Any) -> list[str]:
        stages = recipe.parse(content(stages=searches, **settings), "toy").stages
        return [stage.comet_model for stage in stages if isinstance(stage, Prune)]

    assert models() == [COMET_MODEL, "someone/own", COMET_MODEL]
    # the third goes by chrF++, and stays the search that it was
    assert models(comet_model="someone/judge") == ["someone/judge", "someone/own", COMET_MODEL]


def test_a_recipe_cannot_be_changed() -> None:
    found = recipe.load("setup1-de")
    with pytest.raises(ValidationError, match="frozen"):
        found.model = "other"  # type: ignore[misc]  # that is the point


# --- contradictions ---------------------------------------------------------------------------------------------


def content(**settings: Any) -> dict[str, Any]:
    """A recipe of two stages."""
    stages = [{"stage": "finetune"}, {"stage": "prune", "n_remove": 2}]
    data = {"source": "acl6060"}
    return {"name": "toy", "model": "pocket", "language": "de", "data": data, "stages": stages} | settings


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"data": {"source": "manifest"}}, "data: source manifest needs a path"),
        ({"data": {"source": "pocket"}}, "data: domain belongs to source pocket, and pocket needs one"),
        ({"data": {"source": "acl6060", "domain": "talks"}}, "data: domain belongs to source pocket"),
        ({"data": {"source": "covost2", "revision": "abc"}}, "data: revision is for data from the hub"),
        (
            {"data": {"source": "pocket", "domain": "talks", "split_by": "talk"}},
            "data: pocket has no talks to split by",
        ),
        ({"stages": [{"stage": "finetune", "mix": {"in_domain": 0}}]}, "stages.finetune.mix: the mix is empty"),
        (
            {"stages": [{"stage": "finetune", "optimisation": {"batch_size": 4, "accumulation": 3}}]},
            "stages.finetune.optimisation: accumulation 3 must divide batch_size 4",
        ),
        (
            {"stages": [{"stage": "prune", "n_remove": 1, "strategy": "middle", "metric": "chrF"}]},
            "stages.prune: metric is for strategy greedy",
        ),
        (
            {"stages": [{"stage": "prune", "n_remove": 1, "strategy": "middle", "protected": []}]},
            "stages.prune: protected is for strategies greedy and block-influence",
        ),
        (
            {"stages": [{"stage": "prune", "n_remove": 1, "part": "tower", "mode": "fast"}]},
            "stages.prune: mode fast is for the decoder",
        ),
        (
            {"stages": [{"stage": "prune", "n_remove": 1, "mode": "fast", "workers": 2}]},
            "stages.prune: mode fast compares all candidates as it goes: it has one worker",
        ),
        (
            {"stages": [{"stage": "prune", "n_remove": 1, "mode": "fast", "metric": "BLEU"}]},
            "stages.prune: mode fast compares parts of the corpus, over which BLEU does not add up",
        ),
        (
            {"stages": [{"stage": "prune", "n_remove": 1, "comet_model": "Unbabel/wmt22-comet-da"}]},
            "stages.prune: comet_model is for metric COMET",
        ),
        ({"stages": [{"stage": "finetune"}, {"stage": "finetune"}]}, "two stages are called finetune"),
        (
            {"stages": [{"stage": "finetune"}, {"stage": "distill", "teacher": "distill"}]},
            "distill refers to 'distill'; stages before it: finetune",
        ),
        (
            {"stages": [{"stage": "finetune", "source": "prune"}]},
            "finetune refers to 'prune'; stages before it: none",
        ),
        (
            {"stages": [{"stage": "finetune", "mix": {"distilled": 1}}]},
            "finetune mixes distilled translations, and no distill stage comes before it",
        ),
        (
            {"stages": [{"stage": "qlora", "mix": {"out_of_domain": 1}}]},
            "qlora mixes out-of-domain data, and the recipe names none",
        ),
        (
            {
                "out_of_domain": {"source": "covost2", "n_train": 10},
                "stages": [{"stage": "qlora", "mix": {"out_of_domain": 11}}],
            },
            "qlora mixes 11 out-of-domain utterances of 10",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_their_place(settings: dict[str, Any], line: str) -> None:
    assert recipe.parse(content(), "toy").name == "toy"
    with pytest.raises(RecipeError) as caught:
        recipe.parse(content(**settings), "toy.yaml")
    first, *others = str(caught.value).splitlines()
    assert first == "toy.yaml:"
    assert len(others) == 1
    assert others[0].startswith(f"  {line}")


def test_problems_are_all_named_at_once() -> None:
    stages = [
        {"stage": "finetune", "optimisation": {"epochs": 0}, "frozen": ["lm_heed"]},
        {"stage": "prune", "n_remove": 1, "strategy": "middle", "metric": "chrF", "metrics": "chrF"},
        {"stage": "distil"},
        {"stage": "finetune", "name": "../recover"},
    ]
    wrong = content(stages=stages, data={"source": "pocket", "n_train": "many", "n_trian": 3}, modell="pocket")
    del wrong["model"]
    with pytest.raises(RecipeError) as caught:
        recipe.parse(wrong, "toy.yaml")
    first, *others = str(caught.value).splitlines()
    assert first == "toy.yaml:"
    assert sorted(line.strip().split(": ")[0] for line in others) == [
        "data.n_train",
        "data.n_trian",
        "model",
        "modell",
        "stages.../recover.name",
        "stages.distil",
        "stages.finetune.frozen.0",
        "stages.finetune.optimisation.epochs",
        "stages.prune",
        "stages.prune.metrics",
    ]


def test_stages_that_do_not_fit_together_are_all_named_at_once() -> None:
    stages = [
        {"stage": "qlora", "mix": {"distilled": 1, "out_of_domain": 1}, "source": "prune"},
        {"stage": "distill", "teacher": "finetune"},
        {"stage": "qlora"},
    ]
    with pytest.raises(RecipeError) as caught:
        recipe.parse(content(stages=stages), "toy.yaml")
    assert str(caught.value).splitlines()[1:] == [
        "  two stages are called qlora",
        "  qlora refers to 'prune'; stages before it: none",
        "  qlora mixes distilled translations, and no distill stage comes before it",
        "  qlora mixes out-of-domain data, and the recipe names none",
        "  distill refers to 'finetune'; stages before it: qlora",
    ]
