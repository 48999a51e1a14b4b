"""`run`, and each stage for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from compress import recipe as recipes
from compress.commands.console import console, shown
from compress.errors import RecipeError
from compress.recipe import Recipe
from compress.recipe_stages import Stage

if TYPE_CHECKING:
    from compress.plan import Need

_WORK: Final = Path(".cache/runs")

_Recipe = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.", metavar="RECIPE")]
_Set = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting, as in data.n_train=100; may be repeated.")
]
_Work = Annotated[Path, typer.Option(help="Results, states, encoded audio.", file_okay=False)]


def run(
    recipe: _Recipe,
    work: _Work = _WORK,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it is going to need.")] = False,
    again: Annotated[list[str] | None, typer.Option(help="Repeat this finished stage; may be repeated.")] = None,
    changes: _Set = None,
) -> None:
    """Carry out a recipe: all its stages in order, each resumable, each reported on."""
    from compress import disk
    from compress import plan as plans

    chosen = recipes.load(recipe, changes or [])
    found = plans.plan(chosen)
    if plan:
        console.print(_plan_table(chosen, found.needs))
    work_gb, memory_gb = found.work_bytes / 1e9, found.memory_bytes / 1e9
    console.print(f"{work_gb:.2f} GB on disk, at most {memory_gb:.2f} GB of memory and activations")
    download = f", and {found.download_bytes / 1e9:.2f} GB for the model from the hub" if found.download_bytes else ""
    console.print(f"besides, about {found.audio_bytes / 1e9:.2f} GB of encoded audio{download}")
    if warning := disk.check(found, work):
        console.print(f"[yellow]it may become tight: {escape(warning)}", soft_wrap=True)
    if plan:
        return
    from compress.pipeline import Pipeline

    with shown() as progress:
        results = Pipeline(chosen, work, progress).run(again or [])
    table = Table(title=chosen.name, title_justify="left")
    overall = [{one.metric: one for one in result.report.scores if not one.group} for result in results]
    metrics = dict.fromkeys(metric for scores in overall for metric in scores)
    for heading in ("model", *metrics, "MB"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for result, scores in zip(results, overall, strict=True):
        values = [f"{scores[metric].value:.2f}" if metric in scores else "–" for metric in metrics]
        table.add_row(result.stage, *values, f"{result.checkpoint.n_bytes / 1e6:.1f}")
    console.print(table)
    console.print(f"[green]{escape(str(results[-1].checkpoint.path))}", soft_wrap=True)


def stage_verb(verb: str, summary: str) -> Callable[..., None]:
    """The command of one stage: it takes the settings from a recipe, and the model from anywhere."""

    def command(
        recipe: _Recipe,
        model: Annotated[str, typer.Option(help="The checkpoint to start from: pocket, a directory, or a hub name.")],
        stage: Annotated[str | None, typer.Option(help="Which of the recipe's stages, where it has several.")] = None,
        work: _Work = _WORK,
        again: Annotated[bool, typer.Option("--again", help="Repeat it although its result is there.")] = False,
        changes: _Set = None,
    ) -> None:
        chosen = recipes.load(recipe, changes or [])
        wanted = _stage(chosen, verb, stage)
        from compress.pipeline import Pipeline

        with shown() as progress:
            made = Pipeline(chosen, work, progress).single(wanted, model, repeat=again)
        console.print(f"[green]{escape(str(made))}", soft_wrap=True)

    command.__doc__ = summary
    return command


def _stage(recipe: Recipe, verb: str, name: str | None) -> Stage:
    found = [one for one in recipe.stages if one.stage == verb and name in (None, one.name)]
    if len(found) != 1:
        names = ", ".join(one.name for one in recipe.stages if one.stage == verb) or "none"
        raise RecipeError(f"{recipe.name} has not one {verb} stage{f' {name}' if name else ''}; it has: {names}")
    return found[0]


VERBS: Final = {
    "finetune": "Full fine-tuning with the paper's settings, or any others.",
    "prune": "Remove whole layers: searched for, from the middle, or by block influence.",
    "distill": "Have a teacher translate the training audio.",
    "qlora": "Train a low-rank adapter over 4-bit weights.",
}


def _plan_table(recipe: Recipe, needs: Sequence[Need]) -> Table:
    table = Table(title=escape(f"{recipe.name}: {recipe.about}"), title_justify="left")
    for heading in ("stage", "verb", "data", "layers"):
        table.add_column(heading)
    for heading in ("result", "memory", "states"):
        table.add_column(f"{heading}, GB", justify="right")
    for need in needs:
        sizes = (need.result_bytes, need.memory_bytes, need.work_bytes)
        layers = "/".join(map(str, need.layers))
        table.add_row(need.stage, need.verb, need.data, layers, *(f"{size / 1e9:.2f}" for size in sizes))
    return table
