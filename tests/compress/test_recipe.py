"""Shipped recipes load, hold the paper's values and differ in what their names say; contradictions are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from pydantic import ValidationError

from compress import dataset, recipe
from compress.checkpoint import POCKET
from compress.errors import RecipeError
from compress.recipe import Data, Recipe
from compress.recipe_files import RECIPES
from compress.recipe_stages import Distill, Export, Finetune, Mix, Optimisation, Prune, Qlora, Stage

SHIPPED: Final = sorted(file.stem for file in RECIPES.glob("*.yaml"))
INSTRUCT: Final = "Qwen/Qwen2-Audio-7B-Instruct"
LANGUAGES: Final = ("de", "zh")

# every experiment, for Qwen2-Audio-7B and for the pocket model, without its language
EXPERIMENTS: Final = {
    "setup1": "pocket-setup1",
    "setup2": "pocket-setup2",
    "ablation-no-distillation": "pocket-ablation-no-distillation",
    "ablation-prune-encoder-and-decoder": "pocket-ablation-prune-encoder-and-decoder",
    "ablation-prompt-base": "pocket-ablation-prompt-base",
    "ablation-prompt-instruct": "pocket-ablation-prompt-instruct",
    "ablation-prune-middle": "pocket-ablation-prune-middle",
    "ablation-prune-by-comet": "pocket-ablation-prune-by-comet",
    "ablation-prune-8-of-32": "pocket-ablation-prune-3-of-12",
    "ablation-prune-10-of-32": "pocket-ablation-prune-4-of-12",
    "ablation-prune-12-of-32": "pocket-ablation-prune-5-of-12",
    "ablation-prune-16-of-32": "pocket-ablation-prune-6-of-12",
    "ablation-immediate-recovery": "pocket-ablation-immediate-recovery",
    "ablation-out-of-domain-10k": "pocket-ablation-out-of-domain-80",
    "ablation-out-of-domain-50k": "pocket-ablation-out-of-domain-400",
    "ablation-out-of-domain-80k": "pocket-ablation-out-of-domain-640",
    "ablation-finetune-only-before-pruning": "pocket-ablation-finetune-only-before-pruning",
    "ablation-finetune-only-after-pruning": "pocket-ablation-finetune-only-after-pruning",
    "ablation-lora-for-speed": "pocket-ablation-lora-for-speed",
}

# what is everywhere in the paper (sections 2.1, 3.1 and 5)
TRAINING: Final = {
    "accumulation": 1,
    "learning_rate": 1e-5,
    "warmup_ratio": 0.0,
    "max_grad_norm": 1.0,
    "master_weights": "fp32",
    "seed": 0,
}
IN_DOMAIN: Final = Data(source="acl6060", n_report=100, paper_parity=True, seed=0)


def of(found: Recipe, name: str) -> Any:
    """The stage of that name."""
    return next(stage for stage in found.stages if stage.name == name)


def names(found: Recipe) -> list[str]:
    return [stage.name for stage in found.stages]


def flat(found: Recipe) -> dict[str, Any]:
    """Everything that decides the result, stages by name."""
    content = found.model_dump(mode="json", exclude={"name", "about"})
    return content | {"stages": {stage["name"]: stage for stage in content["stages"]}}


def changes(before: Any, after: Any, place: str = "") -> dict[str, Any]:
    """What is another value, or None where there is none any more, by its place."""
    if isinstance(before, dict) and isinstance(after, dict):
        return {
            inner: value
            for key in before | after
            for inner, value in changes(before.get(key), after.get(key), f"{place}.{key}".lstrip(".")).items()
        }
    return {} if before == after else {place: after}


def between(compared: str, experiment: str) -> dict[str, Any]:
    return changes(flat(recipe.load(compared)), flat(recipe.load(experiment)))


def optimisation(found: Any) -> dict[str, Any]:
    """What decides the result of a training."""
    settings: dict[str, Any] = found.optimisation.model_dump(exclude={"gradient_checkpointing", "save_every"})
    return settings


# --- all that are shipped ---------------------------------------------------------------------------------------


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


# --- ablations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0, 1], ids=["7b", "pocket"])
@pytest.mark.parametrize(
    ("experiment", "compared", "wanted"),
    [
        (
            "ablation-no-distillation",
            "setup1",
            {"stages.distill": None, "stages.qlora.mix.distilled": 0},
        ),
        (
            "ablation-prune-8-of-32",
            "setup2",
            {
                "out_of_domain": None,
                "stages.distill": None,
                "stages.recover.mix.distilled": 0,
                "stages.qlora": None,
                "stages.export": None,
            },
        ),
        ("ablation-prune-middle", "ablation-prune-8-of-32", {"stages.prune.strategy": "middle"}),
        ("ablation-prune-by-comet", "ablation-prune-8-of-32", {"stages.prune.metric": "COMET"}),
        ("ablation-finetune-only-before-pruning", "ablation-prune-8-of-32", {"stages.recover": None}),
        ("ablation-finetune-only-after-pruning", "ablation-prune-8-of-32", {"stages.finetune": None}),
        (
            "ablation-lora-for-speed",
            "setup2",
            {"stages.qlora.quantisation": "none", "stages.export.layout": "bf16", "stages.export.merge": True},
        ),
    ],
)
def test_an_ablation_differs_in_what_its_name_says(
    experiment: str, compared: str, wanted: dict[str, Any], scale: int
) -> None:
    ours, other = (name if scale == 0 else EXPERIMENTS[name] for name in (experiment, compared))
    assert between(f"{other}-de", f"{ours}-de") == wanted


@pytest.mark.parametrize(
    ("full", "experiments", "n_layers"),
    [("ablation-prune-8-of-32", [10, 12, 16], 32), ("pocket-ablation-prune-3-of-12", [4, 5, 6], 12)],
)
def test_more_layers_are_pruned(full: str, experiments: list[int], n_layers: int) -> None:
    for n in experiments:
        name = re.sub(r"\d+-of-\d+", f"{n}-of-{n_layers}", full)
        assert between(f"{full}-de", f"{name}-de") == {"stages.prune.n_remove": n}


@pytest.mark.parametrize(
    ("setup", "sizes"),
    [
        ("setup2", {"10k": 10_000, "50k": 50_000, "80k": 80_000}),
        ("pocket-setup2", {"80": 80, "400": 400, "640": 640}),
    ],
)
def test_out_of_domain_sizes_differ_in_nothing_else(setup: str, sizes: dict[str, int]) -> None:
    prefix = setup.removesuffix("setup2")
    for label, n in sizes.items():
        found = between(f"{setup}-de", f"{prefix}ablation-out-of-domain-{label}-de")
        assert found == {"out_of_domain.n_train": n, "stages.qlora.mix.out_of_domain": n}


@pytest.mark.parametrize(
    ("prefix", "full", "n_tower", "n_decoder"), [("", "8-of-32", 8, 8), ("pocket-", "3-of-12", 1, 3)]
)
def test_encoder_and_decoder_lose_their_middle(prefix: str, full: str, n_tower: int, n_decoder: int) -> None:
    both = recipe.load(f"{prefix}ablation-prune-encoder-and-decoder-de")
    decoder_only = recipe.load(f"{prefix}ablation-prune-middle-de")
    assert names(both) == ["finetune", "prune-encoder", "prune-decoder", "recover"]
    assert changes(flat(decoder_only), flat(both)).keys() == {
        "stages.prune",
        "stages.prune-encoder",
        "stages.prune-decoder",
    }
    cut = [of(both, name) for name in ("prune-encoder", "prune-decoder")]
    assert [(stage.part, stage.strategy, stage.n_remove) for stage in cut] == [
        ("tower", "middle", n_tower),
        ("decoder", "middle", n_decoder),
    ]
    assert of(decoder_only, "prune").n_remove == n_decoder == int(full.partition("-")[0])


@pytest.mark.parametrize("full", ["ablation-prune-8-of-32", "pocket-ablation-prune-3-of-12"])
def test_immediate_recovery_trains_after_each_removal_as_the_others_do_at_the_end(full: str) -> None:
    prefix = full.partition("ablation")[0]
    at_the_end, at_once = recipe.load(f"{full}-de"), recipe.load(f"{prefix}ablation-immediate-recovery-de")
    assert names(at_once) == ["finetune", "prune"]
    assert of(at_once, "prune").recovery == of(at_the_end, "recover").optimisation
    found = changes(flat(at_the_end), flat(at_once))
    assert found.keys() == {"stages.prune.recovery", "stages.recover"}


def test_the_base_model_and_the_instruct_model_are_asked_in_their_own_ways() -> None:
    base, instruct = (recipe.load(f"ablation-prompt-{kind}-de") for kind in ("base", "instruct"))
    assert (base.model, base.prompt, base.stages) == ("Qwen/Qwen2-Audio-7B", "base", ())
    assert (instruct.model, instruct.prompt, instruct.stages) == (INSTRUCT, "instruct", ())
    assert between("pocket-ablation-prompt-instruct-de", "pocket-ablation-prompt-base-de") == {"prompt": "base"}


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


# --- from a file to a recipe ------------------------------------------------------------------------------------


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


def test_a_recipe_cannot_be_changed() -> None:
    found = recipe.load("setup1-de")
    with pytest.raises(ValidationError, match="frozen"):
        found.model = "other"  # type: ignore[misc]  # that is the point
    with pytest.raises(ValidationError, match="frozen"):
        Optimisation().epochs = 9  # type: ignore[misc]
