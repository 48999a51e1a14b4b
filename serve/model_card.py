"""What `GET /v1/models` says of a model, and what can be read from it.

OpenAI's fields come first, then what the model's checkpoint says of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from serve.engine import ModelInfo


class ModelScore(BaseModel):
    """How well a model translates; see `compress.score.Score`."""

    model_config = ConfigDict(extra="ignore")

    language: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    signature: str
    split: str
    group: str = ""
    paper_parity: bool = False


class ModelCard(BaseModel):
    """A loaded model; None stands for what is not known of it.

    Attributes:
        languages: codes of the target languages that it was made for.
        parent: name of the model that it was made from.
        layers, tower_layers: of the decoder and of the audio tower, those that are left, as the first model of the
            line numbers them.
        format: how its weights are stored.
        bytes: of its weights on disk, an adapter's included.
        parameters: weights of the model, in whatever format they are stored.
        stored_elements: numbers in its files without an adapter's, where packed weights share one.
        scores: as measured; empty if they were not.
        lineage: all that it says.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["kompakt"] = "kompakt"
    languages: list[str]
    parent: str | None
    layers: list[int] | None
    tower_layers: list[int] | None
    format: str | None
    bytes: int | None
    parameters: int | None
    stored_elements: int | None
    scores: list[ModelScore]
    lineage: dict[str, Any]


class _Told(BaseModel):
    """As much of a card as another one is made from."""

    id: str
    created: int = 0
    bytes: int | None = None
    parameters: int | None = None
    stored_elements: int | None = None
    lineage: dict[str, Any] = {}


class ModelList(BaseModel):
    """The loaded models, the default one first."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def model_card(model: ModelInfo) -> ModelCard:
    """Describes a model.  What a lineage says in a way that cannot be understood counts as not said."""
    lineage = model.lineage
    return ModelCard(
        id=model.name,
        created=model.created,
        languages=list(model.languages),
        parent=_text(lineage.get("parent")),
        layers=_numbers(lineage.get("layers")),
        tower_layers=_numbers(lineage.get("tower_layers")),
        format=_text(lineage.get("format")),
        bytes=model.n_bytes,
        parameters=model.n_parameters,
        stored_elements=model.n_stored,
        scores=_scores(lineage),
        lineage=dict(lineage),
    )


def model_info(card: object) -> ModelInfo:
    """The model that another server describes; of vLLM's, little more than the name is known.

    Raises:
        ValueError: this is no description of a model.
    """
    told = _Told.model_validate(card)
    return ModelInfo(told.id, told.lineage, told.bytes, told.created, told.parameters, told.stored_elements)


def _scores(lineage: Mapping[str, Any]) -> list[ModelScore]:
    found = lineage.get("scores")
    scores = []
    for given in found if isinstance(found, list) else []:
        try:
            # the second names are those of the shipped pocket model
            names = {"split": lineage.get("split"), "group": given.get("stratum", ""), "n": given.get("n_clips")}
            scores.append(ModelScore.model_validate(names | given))
        except (AttributeError, ValidationError):
            continue  # no score without a signature, a split and an interval
    return scores


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _numbers(value: object) -> list[int] | None:
    if isinstance(value, list) and all(type(each) is int for each in value):
        return value
    return None
