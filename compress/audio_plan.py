"""About how many bytes of prepared sound a recipe leaves in the cache (`clips`): known numbers times a mean length.

A frozen tower's output is stored once a tower and a sound, and the samples of sounds that train a tower once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from compress import dataset
from compress.audio import FRAMES_PER_SECOND, SAMPLE_RATE
from compress.recipe import Data, Recipe, Split
from compress.recipe_stages import Distill, Export, Finetune, Mix, Prune, Qlora, Stage
from compress.sources import acl6060, pocket

# Seconds of an utterance: two hours of talks in 884; 430 hours in 289,430; 40 of the pocket corpus, heard.  Of users'
# own data nobody knows: they are taken for talks.
MEAN_S: Final = {"acl6060": 8.0, "covost2": 5.4, "pocket": 4.5, "manifest": 8.0}

_N_COVOST_TRAIN: Final = 289_430
_TOKENS_PER_SECOND: Final = FRAMES_PER_SECOND // 4  # a convolution and a pooling halve the frames
_TOKEN_VALUE_BYTES: Final = 2  # float16
_SAMPLE_BYTES: Final = 4  # float32

# Which tower hears it, numbered as they come about; or none, but the samples are kept.
Ear = int | Literal["samples"]
Sounds = tuple[Data, Split]


def audio_bytes(recipe: Recipe, tower_width: int) -> int:
    """About what a recipe takes.

    Args:
        recipe: whose stages train, translate and are reported on.
        tower_width: values of an audio token.

    Raises:
        RecipeError: a manifest that cannot be read.
    """
    total = 0.0
    for ear, (data, split) in heard(recipe):
        a_second = _SAMPLE_BYTES * SAMPLE_RATE
        if ear != "samples":
            a_second = _TOKEN_VALUE_BYTES * tower_width * _TOKENS_PER_SECOND
        total += n_utterances(data, recipe.language, split) * MEAN_S[data.source] * a_second
    return round(total)


def n_utterances(data: Data, language: str, split: Split) -> int:
    """How many utterances a split has: nothing is downloaded to find out, but a manifest is read.

    Raises:
        RecipeError: a manifest that cannot be read.
    """
    if data.source == "manifest":
        return len(dataset.load(data, language, split).utterances)
    if split != "train":
        n = data.n_report if split == "report" else data.n_search
        return 2 * n if data.source == "pocket" and split == "report" else n
    if data.n_train is not None:
        return data.n_train
    if data.source == "acl6060":
        everything = sum(n for talks in acl6060.TALKS.values() for n in talks.values())
        return max(0, everything - data.n_report - (0 if data.paper_parity else data.n_search))
    return pocket.N_TRAIN if data.source == "pocket" else _N_COVOST_TRAIN


def heard(recipe: Recipe) -> list[tuple[Ear, Sounds]]:
    """Which sounds are kept in which form, each once."""
    return list(dict.fromkeys(_heard(recipe)))


def _heard(recipe: Recipe) -> Iterator[tuple[Ear, Sounds]]:
    """The same stage by stage, some of it again and again."""
    report: Sounds = (recipe.data, "report")
    train: Sounds = (recipe.data, "train")
    towers = {"": 0}
    current = newest = 0
    frozen: tuple[str, ...] = ()
    yield current, report
    for stage in recipe.stages:
        before = towers[stage.source] if stage.source else current
        ear: Ear = before
        match stage:
            case Finetune():
                frozen = stage.frozen
                ear = before if "tower" in frozen else "samples"
                yield from ((ear, sounds) for sounds in _mixed(recipe, stage.mix))
            case Prune() if stage.recovery is not None:
                ear = before if "tower" in frozen else "samples"
                yield ear, train
            case Distill():
                yield towers[stage.teacher], train
            case Qlora():
                ear = before if stage.modules == "decoder" else "samples"
                yield from ((ear, sounds) for sounds in _mixed(recipe, stage.mix))
            case _:
                pass
        if ear == "samples" or _changes_the_tower(stage, recipe):
            newest += 1
            before = newest
        towers[stage.name] = current = before
        yield current, report


def _mixed(recipe: Recipe, mix: Mix) -> Iterator[Sounds]:
    if mix.in_domain or mix.distilled:
        yield recipe.data, "train"
    if mix.out_of_domain and recipe.out_of_domain is not None:
        yield recipe.out_of_domain.model_copy(update={"n_train": mix.out_of_domain}), "train"


def _changes_the_tower(stage: Stage, recipe: Recipe) -> bool:
    """Whether a stage that trains no tower leaves another one all the same."""
    match stage:
        case Prune():
            return stage.part == "tower"
        case Export():
            adapted = [one for one in recipe.stages if isinstance(one, Qlora)]
            in_4_bits = stage.layout in ("paper", "compact") and not any(one.quantisation == "nf4" for one in adapted)
            return in_4_bits or any(one.modules == "all" for one in adapted)
        case _:
            return False
