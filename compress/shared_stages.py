"""What two recipes have in common is made once: a finished stage is taken over from another recipe's directory.

The directory of a finished stage says in `chain.json` what led to it: the model, how it is asked, the data, every stage
on the way with its settings, the checkpoint that the last one started from and what it has read.  Equal chains have
equal results.  Names of recipes are no part of a chain; a checkpoint keeps the name that it was made under.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from compress.checkpoint import Checkpoint
from compress.distill import LABELS_FILE
from compress.errors import RecipeError
from compress.prune import EVALUATIONS_FILE
from compress.recipe import Recipe
from compress.recipe_stages import Distill, Finetune, Prune, Qlora, Stage
from compress.training.collate import TrainingExample
from compress.training.states import STATES
from compress.weights import storage

CHAIN_FILE: Final = "chain.json"

Chain = dict[str, Any]


def chain(
    recipe: Recipe, stage: Stage | None, model: Checkpoint, source: Checkpoint, read: Sequence[TrainingExample]
) -> Chain:
    """All that a stage's result depends on.

    Args:
        recipe: whose stage it is.
        stage: the last of the chain; None for the recipe's model itself.
        model: the recipe's.
        source: what the stage starts from; of `distill`, the teacher.
        read: what it is given: to train on, to search on, to translate.
    """
    stages = _way_to(recipe.stages, stage) if stage else []
    other = recipe.out_of_domain
    mixed = [one.mix.out_of_domain for one, _ in stages if isinstance(one, Finetune | Qlora)]
    return {
        "model": recipe.model,
        "revision": recipe.revision,
        "identity": model.identity,
        "language": recipe.language,
        "prompt": recipe.prompt,
        "max_new_tokens": recipe.max_new_tokens,
        "data": recipe.data.model_dump(mode="json"),
        # each mix says itself how many of them it takes
        "out_of_domain": other.model_dump(mode="json", exclude={"n_train"}) if other and any(mixed) else None,
        "stages": [one.model_dump(mode="json") | {"source": before} for one, before in stages],
        "source": source.identity,
        "read": storage.digest([(one.id, one.audio.key, one.target) for one in read]),
    }


def settle(stage: Stage, out: Path, *, repeat: bool) -> None:
    """Sees to it that a finished result is either what the stage asks for, or may go.

    Raises:
        RecipeError: the result was made with other settings; they are named.
    """
    if repeat:
        shutil.rmtree(out.parent, ignore_errors=True)
    if not out.is_dir():
        return
    history = Checkpoint.open(out).lineage.get("history", [])
    before = history[-1] if history else {}
    # in the history, `source` is the name of a checkpoint; what a stage starts from it compares itself
    wanted = stage.model_dump(mode="json", exclude={"source"})
    changed = [
        f"{key} was {before.get(key)!r}, is {value!r}" for key, value in wanted.items() if before.get(key) != value
    ]
    if changed:
        raise RecipeError(
            f"{out} was made with other settings ({'; '.join(changed)}): repeat {stage.name} with --again, "
            "or name another work directory"
        )


def record(place: Path, made: Chain) -> None:
    """Says what led to a stage's result, which is whole; writes nothing that is there already."""
    place.mkdir(parents=True, exist_ok=True)
    storage.write_whole(place / CHAIN_FILE, json.dumps(made, indent=1, ensure_ascii=False) + "\n")


def forget(place: Path, wanted: Chain | None = None) -> None:
    """Takes back what was said of a result that is about to be made of something else than `wanted`."""
    if wanted is None or _read(place) != wanted:
        (place / CHAIN_FILE).unlink(missing_ok=True)


def take_over(place: Path, wanted: Chain) -> str | None:
    """Fills a stage's directory, `WORK/RECIPE/NN-STAGE`, with the equal result of another recipe, scores included.

    Weights are linked where the file system can, all else is copied.  What an unfinished run has left in the directory
    goes; whatever kills the process, the directory is the old one, or missing, or whole.

    Returns:
        The name of the other recipe; None where there is nothing to take over, or the result is here.
    """
    if _is_whole(place):
        return None
    donor = next((other for other, made in _others(place) if made == wanted), None)
    if donor is None:
        return None
    temporary = place.with_name(f"{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    left_out = shutil.ignore_patterns("*.tmp", "*.old", STATES)
    shutil.copytree(donor, temporary, ignore=left_out, copy_function=_link_or_copy)
    if (result := temporary / _result(donor).name).is_dir():
        result.rename(temporary / _result(place).name)
    shutil.rmtree(place, ignore_errors=True)
    temporary.rename(place)
    return donor.parent.name


def take_over_search(place: Path, wanted: Chain) -> str | None:
    """Copies the evaluations of another recipe's search that differs in nothing but the number of layers.

    Its choices are the first ones of a longer search, and those of a longer one begin with them.

    Returns:
        The name of the other recipe; None where there is no such search, or one has begun here.
    """
    search = _of_any_length(wanted)
    if search is None or (place / EVALUATIONS_FILE).is_file():
        return None
    logs = [
        other / EVALUATIONS_FILE
        for other, made in _others(place)
        if _of_any_length(made) == search and (other / EVALUATIONS_FILE).is_file()
    ]
    if not logs:
        return None
    longest = max(logs, key=lambda log: log.stat().st_size)
    place.mkdir(parents=True, exist_ok=True)
    temporary = place / f"{EVALUATIONS_FILE}.tmp"
    shutil.copy(longest, temporary)
    temporary.replace(place / EVALUATIONS_FILE)
    return longest.parent.parent.name


def _way_to(stages: Sequence[Stage], last: Stage) -> list[tuple[Stage, str | None]]:
    """The stages that a stage's result builds on, and itself, in order; with each, whose checkpoint it starts from."""
    before: dict[str, str | None] = {}
    needed: dict[str, set[str | None]] = {}
    current: str | None = None
    distilled: str | None = None
    trained: str | None = None
    for stage in stages:
        source = stage.source or current
        if isinstance(stage, Distill):
            before[stage.name] = stage.teacher
            current, distilled = source, stage.name
        else:
            before[stage.name] = source
            current = stage.name
        needed[stage.name] = {before[stage.name]}
        if isinstance(stage, Finetune | Qlora) and stage.mix.distilled:
            needed[stage.name].add(distilled)
        if isinstance(stage, Prune) and stage.recovery is not None:
            needed[stage.name].add(trained)  # it says what stays frozen
        if isinstance(stage, Finetune):
            trained = stage.name
    wanted: set[str | None] = {last.name}
    for name in reversed(needed):  # a stage needs earlier ones only
        if name in wanted:
            wanted |= needed[name]
    return [(stage, before[stage.name]) for stage in stages if stage.name in wanted]


def _others(place: Path) -> Iterator[tuple[Path, Chain]]:
    """Finished directories of other recipes, and what led to them."""
    for file in sorted(place.parent.parent.glob(f"*/*/{CHAIN_FILE}")):
        other, made = file.parent, _read(file.parent)
        half = other.suffix == ".tmp"  # a directory that is being filled
        if other.parent != place.parent and not half and made is not None and _is_whole(other):
            yield other, made


def _is_whole(place: Path) -> bool:
    """Whether a stage's result is there: its checkpoint, all its labels, or nothing to make."""
    if _result(place).is_dir():
        return True
    made = _read(place)
    if made is None:
        return False
    return not made["stages"] or (made["stages"][-1]["stage"] == "distill" and (place / LABELS_FILE).is_file())


def _result(place: Path) -> Path:
    """Where the checkpoint of a directory `RECIPE/NN-STAGE` lies."""
    return place / f"{place.parent.name}-{place.name.partition('-')[2]}"


def _read(place: Path) -> Chain | None:
    try:
        content: Chain = json.loads((place / CHAIN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def _of_any_length(made: Chain) -> Chain | None:
    """A search's chain without the number of layers; None for what is no search."""
    *earlier, last = made["stages"] or [{}]
    if last.get("strategy") != "greedy" or last["recovery"] is not None:
        return None
    return made | {"stages": [*earlier, {key: value for key, value in last.items() if key != "n_remove"}]}


def _link_or_copy(source: str, target: str) -> str:
    """Only weights: files that are appended to must not be the same file in two places."""
    if source.endswith(".safetensors"):
        with suppress(OSError):  # another file system, or one without links
            os.link(source, target)
            return target
    return str(shutil.copy2(source, target))
