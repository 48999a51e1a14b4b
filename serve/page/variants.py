"""What the page says of the loaded models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress.prompt import LANGUAGES
from serve.client import ApiError

Variant = dict[str, Any]  # an entry of `GET /v1/models`


def refusal(variants: Sequence[Variant], name: str, language: str) -> ApiError | None:
    """Why a model is not asked for a language; None if it is.  Of one that is not loaded the API says so itself."""
    for variant in variants:
        if variant["id"] == name and language not in variant["languages"]:
            made_for = " and ".join(LANGUAGES[code].name for code in variant["languages"])
            return ApiError(0, f"{name} was made for {made_for} only")
    return None
