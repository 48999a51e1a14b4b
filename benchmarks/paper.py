"""`python -m benchmarks paper`: the paper's tables with the pocket model, one recipe after the other.

Every recipe is carried out as `python -m compress run` does, all in one work directory, so that stages which two of
them have in common are made once.  A run that was killed goes on where it was when the same command is given again.
After each recipe a row a stage is appended, unless the last row of that stage says the same already.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from rich.progress import Progress
from transformers.utils import logging as transformers_logging

from benchmarks import paper_tables, record, rows
from benchmarks.paper_tables import Language
from compress import prune
from compress import recipe as recipes
from compress.commands.console import shown
from compress.errors import KompaktError, RecipeError
from compress.pipeline import Pipeline, Result
from compress.recipe import Recipe
from compress.recipe_stages import Prune
from compress.weights import size
from compress.weights.architectures import Architecture

LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
WORK: Final = record.ROOT / ".cache" / "paper"
# of a stage's lineage, what its row repeats
_FACTS: Final = ("removed", "search", "n_examples", "n_steps", "loss", "made_from")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    tables = [table.table for table in paper_tables.load().tables]
    parser.add_argument("--language", nargs="+", choices=LANGUAGES, default=LANGUAGES, help="default: both")
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables, help="the paper's (default: all)")
    parser.add_argument("--recipes", nargs="+", metavar="NAME", help="only these of the tables' recipes")
    parser.add_argument("--work", type=Path, default=WORK, metavar="DIR", help="where results and states lie")


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Carries the recipes out; yields the rows that are new.

    Raises:
        RecipeError: no such recipe in the tables.
        KompaktError: see `Pipeline.run`.
    """
    wanted = chosen(options.tables, options.language, options.recipes)
    transformers_logging.disable_progress_bar()
    known = rows.by_stage(rows.read(options.results / "paper.jsonl"))
    with shown() as progress:
        yield from carry_out(wanted, options.work, known, progress)


def chosen(tables: Sequence[str], languages: Sequence[Language], names: Sequence[str] | None = None) -> list[Recipe]:
    """The recipes that repeat the rows of some tables, once each, language after language.

    Args:
        tables: by number.
        languages: into which.
        names: only these recipes; all when absent.

    Raises:
        RecipeError: names that are none of these recipes'.
    """
    listed = [
        name
        for language in languages
        for table in paper_tables.load().tables
        if table.table in tables
        for name in table.recipes(language)
    ]
    found = list(dict.fromkeys(listed))
    if unknown := [name for name in names or () if name not in found]:
        raise RecipeError(f"no recipe {', '.join(unknown)} in these tables; recipes: {', '.join(found)}")
    return [recipes.load(name) for name in found if names is None or name in names]


def carry_out(
    wanted: Sequence[Recipe], work: Path, known: Mapping[tuple[str, str], rows.Row], progress: Progress
) -> Iterator[rows.Row]:
    """Carries recipes out, and yields the rows of each that are not known already.

    Args:
        wanted: in this order; what cannot be searched for here is named and left out.
        work: of all of them.
        known: the last rows by recipe and stage.
        progress: shows what is done and what is next.

    Raises:
        KompaktError: see `Pipeline.run`.
    """
    left = [one for one in wanted if _can_run(one, progress)]
    for number, recipe in enumerate(left, 1):
        after = left[number].name if number < len(left) else "nothing"
        progress.console.rule(f"[bold]{number} of {len(left)}: {recipe.name}; after it: {after}")
        results = Pipeline(recipe, work, progress).run()
        for row in (_row(recipe, result) for result in results):
            if rows.measured(known.get((recipe.name, row["stage"]), {})) != row:
                yield row
        for task in progress.task_ids:  # the next recipe has its own
            progress.remove_task(task)


def _can_run(recipe: Recipe, progress: Progress) -> bool:
    """Whether the search has what the recipe asks for; says so where it does not."""
    try:
        for stage in recipe.stages:
            if isinstance(stage, Prune):
                prune.check(stage)
    except KompaktError as error:
        progress.console.print(f"[yellow]left out: {recipe.name}: {error}", highlight=False)
        return False
    return True


def _row(recipe: Recipe, result: Result) -> dict[str, Any]:
    measured, architecture = size.measure(result.checkpoint.path), Architecture.read(result.checkpoint.path)
    lineage = result.checkpoint.lineage
    row: dict[str, Any] = {
        "recipe": recipe.name,
        "stage": result.stage,
        "language": recipe.language,
        "split": result.report.split,
        "paper_parity": recipe.data.paper_parity,
        "n_train": recipe.data.n_train,
        "scores": [one.as_json() for one in result.report.scores],
        "parameters": measured.logical_parameters,
        "stored_elements": measured.stored_elements,
        "bytes": measured.tensor_bytes,
        "layers": {"tower": architecture.n_tower_layers, "decoder": architecture.n_layers},
        **{key: lineage[key] for key in _FACTS if key in lineage},
    }
    found: dict[str, Any] = json.loads(json.dumps(row))  # as it is read back: tuples are lists
    return found
