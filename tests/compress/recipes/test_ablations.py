"""Recipes of ablations differ from what they are compared with in what their names say, at both scales."""

from __future__ import annotations

import re
from typing import Any

import pytest

from compress import recipe
from tests.compress.recipes.experiments import (
    EXPERIMENTS,
    INSTRUCT,
    between,
    changes,
    flat,
    names,
    of,
)


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
