"""`python -m compress VERB …`: one verb a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from compress.checkpoint import POCKET
from compress.errors import KompaktError

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True)


@app.callback()
def _verbs() -> None:
    """Turns a big speech translator into a small one."""


@app.command()
def pocket(
    out: Annotated[Path, typer.Option(help="Checkpoint directory to write.")] = POCKET,
    work: Annotated[Path, typer.Option(help="Downloads, speech features, training states.")] = Path(".cache/pocket"),
    workers: Annotated[int | None, typer.Option(help="Processes for speech (default: one a core).")] = None,
    tiny: Annotated[bool, typer.Option(help="A run of a minute that tests the command; translates nothing.")] = False,
) -> None:
    """Rebuild the pocket model: corpus, speech, features, weights, scores, model card.  Resumable."""
    from compress.pocket import build, recipe

    settings = recipe.tiny() if tiny else recipe.PocketRecipe()
    with _progress() as progress:
        run = build.Build(settings, work, progress.console, workers or build.default_workers())
        checkpoint = run.run(out, progress)
    _console.print(f"[green]{checkpoint.path}: {checkpoint.n_bytes / 1e6:.1f} MB")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=_console,
    )


def main() -> None:
    """Runs the command line; a user's mistake is one line on stderr and exit status 2."""
    try:
        app()
    except KompaktError as error:
        _console.print(f"[red]error:[/] {error}", highlight=False)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
