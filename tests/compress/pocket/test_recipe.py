"""A recipe refuses what contradicts itself, all problems at once."""

from __future__ import annotations

import json

import pytest

from compress.errors import RecipeError
from compress.pocket.grammar import DOMAINS
from compress.pocket.recipe import PocketRecipe, tiny


def test_the_shipped_recipes_are_valid_and_can_be_written_down() -> None:
    for recipe in (PocketRecipe(), tiny()):
        assert json.loads(json.dumps(recipe.as_json()))["n_sentences"] == recipe.n_sentences


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        PocketRecipe(n_sentences={"daily": 1, "news": 2}, n_silent=-1)
    for part in ("lacks talks", "lacks phone", f"'news', which is none of {', '.join(DOMAINS)}", "n_silent must not"):
        assert part in str(caught.value)
