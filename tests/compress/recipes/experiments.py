"""The paper's experiments by name, and in what two recipes differ."""

from __future__ import annotations

from typing import Any, Final

from compress import recipe
from compress.recipe import Data, Recipe
from compress.recipe_files import RECIPES

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
