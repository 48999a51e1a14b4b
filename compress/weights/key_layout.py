"""How a tensor of Qwen2-Audio is called: on the hub, in memory, and in files that only transformers understands."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

# what a name starts with, and what the hub has there; the first that fits counts
SPELLINGS: Final = (
    ("language_model.model.model.", "language_model.model."),
    ("model.language_model.", "language_model.model."),
    ("model.audio_tower.", "audio_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)


class KeyLayout(StrEnum):
    """Who would write a name like this.

    Attributes:
        HUB: the published checkpoints, and this package.
        DOUBLED: `save_pretrained` of a model that was built from a configuration; transformers reads it back.
        MEMORY: `save_pretrained(save_original_format=False)`; transformers reads it back.
    """

    HUB = "hub"
    DOUBLED = "language_model.model.model"
    MEMORY = "model.language_model"


def layout_of(name: str) -> KeyLayout:
    """Which layout a name on disk has; most of the tower's and the projector's are the same in the first two."""
    if name.startswith("language_model.model.model."):
        return KeyLayout.DOUBLED
    return KeyLayout.MEMORY if name.startswith(("model.", "lm_head.")) else KeyLayout.HUB


def hub_name(name: str) -> str:
    """The name in hub layout, whichever layout it has; `weight` suffixes of quantised formats pass through."""
    for prefix, on_the_hub in SPELLINGS:
        if name.startswith(prefix):
            return on_the_hub + name.removeprefix(prefix)
    return name


def memory_name(name: str) -> str:
    """The name that transformers 5 has in memory, which skip lists and adapters repeat, of a name in hub layout."""
    for on_the_hub, prefix in (
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
    ):
        if name.startswith(on_the_hub):
            return prefix + name.removeprefix(on_the_hub)
    return f"model.{name}"
