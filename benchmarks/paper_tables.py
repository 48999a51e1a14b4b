"""The paper's tables, and which stage of which pocket recipe repeats each of their rows: `paper.yaml`, checked."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import Field

from compress import validation
from compress.recipe_stages import Metric
from compress.validation import Strict

FILE: Final = Path(__file__).with_name("paper.yaml")

Language = Literal["de", "zh"]
Figures = tuple[float, float, float]


class Row(Strict):
    """One row of a table.

    Attributes:
        row: what was done, in a few words.
        de, zh: the paper's figures in the order of `Paper.metrics`; None where it has none.
        params: billions of stored elements.
        storage: decimal gigabytes.
        layers: those that the paper's model lost, in order of removal, by language.
        ours: a recipe without its language, and one of its stages; None where nothing here repeats the row.
        reason: why a row of ours may be missing.
    """

    row: str
    de: Figures | None = None
    zh: Figures | None = None
    params: float | None = None
    storage: float | None = None
    layers: dict[Language, tuple[int, ...]] = Field(default_factory=dict)
    ours: str | None = Field(None, pattern=r"^pocket-\S+ \S+$")
    reason: str = ""

    def figures(self, language: Language) -> Figures | None:
        """The paper's, into a language."""
        return self.de if language == "de" else self.zh

    def place(self, language: Language) -> tuple[str, str] | None:
        """The recipe, with its language, and the stage that repeat this row."""
        if self.ours is None:
            return None
        recipe, stage = self.ours.split()
        return f"{recipe}-{language}", stage


class PaperTable(Strict):
    """One of the paper's tables.

    Attributes:
        table: its number, or that of a section.
        title: what it compares.
        note: what has to be known to read ours beside it.
        rows: in its order.
    """

    table: str
    title: str
    note: str = ""
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """How the paper calls it."""
        return f"Section {self.table}" if "." in self.table else f"Table {self.table}"

    def recipes(self, language: Language) -> list[str]:
        """The recipes that repeat its rows, once each."""
        places = [row.place(language) for row in self.rows]
        return list(dict.fromkeys(place[0] for place in places if place))


class Paper(Strict):
    """The paper's results.

    Attributes:
        metrics: which figures a row gives, by language.
        tables: in the paper's order.
    """

    metrics: dict[Language, tuple[Metric, Metric, Metric]]
    tables: tuple[PaperTable, ...]


@cache
def load() -> Paper:
    """The shipped file."""
    return validation.validate(Paper, yaml.safe_load(FILE.read_text(encoding="utf-8")), FILE.name)
