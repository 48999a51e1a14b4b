"""Checks a file's content against a model of it, and says all that is wrong in the words of the file."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from compress.errors import RecipeError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_Model = TypeVar("_Model", bound=BaseModel)
_Loc = tuple[int | str, ...]

# the key by which an item of a list says of which kind it is
_KIND: Final = "stage"
# problems in whose words pydantic, or the model, has said what was found
_EXPLAINED: Final = ("missing", "union_tag_invalid", "union_tag_not_found")


class Strict(BaseModel):
    """What a file must be: no key but those that are known, no number that is none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def refuse(problems: list[str]) -> None:
    """Ends a validator of a model that has found such problems."""
    if problems:
        raise ValueError("\n".join(problems))


def validate(model: type[_Model], content: dict[str, Any], origin: str) -> _Model:
    """An object of the model.

    Values that contradict each other are looked for where each of them is right.

    Args:
        model: what the content must be; a ValueError of its own may have several lines, one a problem.
        content: as it was read.
        origin: where it was read, for the message.

    Raises:
        RecipeError: every problem, one a line, each with its place.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
    # Beside an unknown key nobody looks for contradictions: look once more without such keys.
    known = copy.deepcopy(content)
    for problem in problems:
        if problem["type"] == "extra_forbidden":
            _remove(known, _keys(problem["loc"]))
    try:
        model.model_validate(known)
    except ValidationError as error:
        problems += error.errors()
    lines = dict.fromkeys(line for problem in problems for line in _lines(model, content, problem))
    raise RecipeError("\n".join([f"{origin}:", *lines]))


def name_of(item: Any) -> str | None:
    """How an item of a list is called: its name, or else its kind; None where it has neither."""
    found = (item.get("name"), item.get(_KIND)) if isinstance(item, dict) else ()
    return next((name for name in found if name and isinstance(name, str)), None)


def _lines(model: type[BaseModel], content: dict[str, Any], problem: ErrorDetails) -> list[str]:
    reasons = [problem["msg"]]
    if problem["type"] == "value_error":
        reasons = str(problem["ctx"]["error"]).splitlines()
    elif problem["type"] == "extra_forbidden":
        reasons = [f"no such key; keys: {', '.join(_fields(model, problem['loc'][:-1]))}"]
    elif problem["type"] not in _EXPLAINED:
        reasons = [f"{problem['msg']}, found {problem['input']!r}"]
    place = _place(content, problem["loc"])
    return [f"  {place}: {reason}" if place else f"  {reason}" for reason in reasons]


def _place(content: Any, loc: _Loc) -> str:
    """Where a problem is, items of lists by their names: `stages.prune.n_remove`."""
    words: list[str] = []
    for key in _keys(loc):
        try:
            content = content[key]
        except (LookupError, TypeError):  # what is missing
            content = None
        words.append((name_of(content) if isinstance(key, int) else None) or str(key))
    return ".".join(words)


def _keys(loc: _Loc) -> list[int | str]:
    """A place as pydantic gives it, without the kinds that it puts behind the number of an item."""
    pairs = zip(("", *loc), loc, strict=False)
    return [part for before, part in pairs if isinstance(part, int) or isinstance(before, str)]


def _remove(content: Any, keys: list[int | str]) -> None:
    for key in keys[:-1]:
        content = content[key]
    del content[keys[-1]]


def _fields(model: type[BaseModel], loc: _Loc) -> Iterable[str]:
    """The keys that are known at a place."""
    models = [model]
    for before, part in zip(("", *loc), loc, strict=False):
        if isinstance(part, str) and isinstance(before, int):
            models = [kind for kind in models if kind.model_fields[_KIND].default == part]
        elif isinstance(part, str):
            models = _models(models[0].model_fields[part].annotation)
    return models[0].model_fields


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
