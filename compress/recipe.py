"""Recipes: what is made from which model and which data, in which stages; strict, frozen, all problems at once.

A recipe is a YAML file (`recipe_files`); those of the paper lie in `recipes/`.  A key that is not known, a value out of
range and two settings that contradict each other are refused when the file is read, together, each with its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator, model_validator

from compress import recipe_files, validation
from compress.prompt import Prompt, Style, translation
from compress.recipe_stages import Distill, Finetune, Prune, Qlora, Stage
from compress.validation import Strict, refuse

Split = Literal["train", "search", "report"]


class Data(Strict):
    """Where utterances and their translations come from.

    Attributes:
        source: `acl6060` (the paper's in-domain set), `covost2`, `manifest` (the user's own) or `pocket` (synthetic).
        path: local copy, or the manifest; without one, `acl6060` is taken from the hub.  `covost2` needs one when it is
            read, so that a recipe can leave it to its users.
        revision: commit of the data set on the hub.
        domain: of `pocket`: talks, daily or phone.
        n_train: utterances to train on, sampled by `seed`; all when absent.
        n_search, n_report: utterances of the other two splits, where the source leaves the choice.
        split_by: `utterance`, or `talk`: no talk then has utterances in two splits.
        paper_parity: search on the very utterances that are reported, as the paper did; written into every result.
        max_s: longer utterances are problems, in seconds.
        on_problem: whether unreadable, empty or over-long utterances end the run or are left out and counted.
        seed: of sampling and splitting.
    """

    source: Literal["acl6060", "covost2", "manifest", "pocket"]
    path: Path | None = None
    revision: str | None = None
    domain: Literal["talks", "daily", "phone"] | None = None
    n_train: PositiveInt | None = None
    n_search: PositiveInt = 100
    n_report: PositiveInt = 100
    split_by: Literal["utterance", "talk"] = "utterance"
    paper_parity: bool = False
    max_s: PositiveFloat = 30.0
    on_problem: Literal["fatal", "skip"] = "fatal"
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.source == "manifest" and self.path is None:
            problems.append("source manifest needs a path")
        if (self.source == "pocket") != (self.domain is not None):
            problems.append("domain belongs to source pocket, and pocket needs one: talks, daily or phone")
        if self.revision is not None and self.source != "acl6060":
            problems.append("revision is for data from the hub: source acl6060")
        if self.split_by == "talk" and self.source == "pocket":
            problems.append("pocket has no talks to split by")
        refuse(problems)
        return self


class Recipe(Strict):
    """One experiment: a model, a language, data, and stages in order; without any, the model is scored as it is.

    Attributes:
        comet_model: scores all results by COMET, too, with this model: a name on the hub, or the path of a `.ckpt`
            file.  Searches by COMET that name no other one take it as well.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    about: str = ""
    model: str
    revision: str | None = None
    language: Literal["de", "zh"]
    prompt: Style = "instruct"
    data: Data
    out_of_domain: Data | None = None
    comet_model: str | None = None  # before `stages`, which look at it
    stages: tuple[Stage, ...]
    max_new_tokens: PositiveInt = 256

    @property
    def wording(self) -> Prompt:
        """How it asks for a translation."""
        return translation(self.language, self.prompt)

    @field_validator("stages")
    @classmethod
    def _searched_by_the_same_comet(cls, stages: tuple[Stage, ...], info: ValidationInfo) -> tuple[Stage, ...]:
        if (model := info.data.get("comet_model")) is None:
            return stages
        return tuple(
            stage.model_copy(update={"comet_model": model})
            if isinstance(stage, Prune) and stage.metric == "COMET" and "comet_model" not in stage.model_fields_set
            else stage
            for stage in stages
        )

    @model_validator(mode="after")
    def _stages_fit_together(self) -> Self:
        names = Counter(stage.name for stage in self.stages)
        problems = [f"two stages are called {name}" for name, n in names.items() if n > 1]
        earlier: list[str] = []
        distilled = False
        for stage in self.stages:
            named = [stage.source, stage.teacher if isinstance(stage, Distill) else None]
            problems += [
                f"{stage.name} refers to {other!r}; stages before it: {', '.join(earlier) or 'none'}"
                for other in named
                if other is not None and other not in earlier
            ]
            if isinstance(stage, Finetune | Qlora):
                if stage.mix.distilled and not distilled:
                    problems.append(f"{stage.name} mixes distilled translations, and no distill stage comes before it")
                if stage.mix.out_of_domain and self.out_of_domain is None:
                    problems.append(f"{stage.name} mixes out-of-domain data, and the recipe names none")
                n = self.out_of_domain.n_train if self.out_of_domain else None
                if n is not None and stage.mix.out_of_domain > n:
                    problems.append(f"{stage.name} mixes {stage.mix.out_of_domain} out-of-domain utterances of {n}")
            distilled |= isinstance(stage, Distill)
            earlier.append(stage.name)
        refuse(problems)
        return self


def load(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        path: its file, or its name: of one in the working directory or among the shipped ones.
        settings: changes to it, such as `data.seed=1` or `stages.prune.n_remove=2`.

    Raises:
        RecipeError: no such recipe, no YAML, or every problem found in it.
    """
    content = recipe_files.apply(recipe_files.read(recipe_files.find(str(path))), settings)
    return parse(content, f"{path} with {', '.join(settings)}" if settings else str(path))


def parse(content: dict[str, Any], origin: str) -> Recipe:
    """Checks a recipe's content; `origin` names it in messages.

    Raises:
        RecipeError: every problem, one a line, each with its place.
    """
    return validation.validate(Recipe, content, origin)
