"""`python -m compress VERB …`: one verb a stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from compress.architectures import QWEN2_AUDIO_7B, Architecture
from compress.checkpoint import POCKET
from compress.errors import KompaktError, RecipeError
from compress.size import Layout, Share, Size, measure, plan_size

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True)
_WORK: Final = Path(".cache/pocket")


@app.callback()
def _verbs() -> None:
    """Turns a big speech translator into a small one."""


@app.command()
def pocket(
    out: Annotated[Path, typer.Option(help="Checkpoint directory to write.", file_okay=False)] = POCKET,
    work: Annotated[Path, typer.Option(help="Downloads, speech features, training states.", file_okay=False)] = _WORK,
    workers: Annotated[int | None, typer.Option(help="Processes for speech (default: one a core).", min=1)] = None,
    tiny: Annotated[bool, typer.Option(help="A run of a minute that tests the command; translates nothing.")] = False,
) -> None:
    """Rebuild the pocket model: corpus, speech, features, weights, scores, model card.  Resumable."""
    from compress.pocket import build, recipe

    settings = recipe.tiny() if tiny else recipe.PocketRecipe()
    with _progress() as progress:
        run = build.Build(settings, work, progress.console, workers or build.default_workers())
        checkpoint = run.run(out, progress)
    _console.print(f"[green]{escape(str(checkpoint.path))}: {checkpoint.n_bytes / 1e6:.1f} MB", soft_wrap=True)


@app.command()
def size(
    checkpoints: Annotated[list[Path] | None, typer.Argument(help="Directories to measure.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Size of a checkpoint that does not exist yet.")] = False,
    config: Annotated[Path | None, typer.Option(help="Plan for this config.json, not for Qwen2-Audio-7B.")] = None,
    layers: Annotated[str | None, typer.Option(help="Plan with so many layers: TOWER,DECODER, as 32,24.")] = None,
    layout: Annotated[list[Layout] | None, typer.Option(help="Plan in this layout; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Parameters, stored elements and bytes of checkpoints, from their headers or planned from a configuration."""
    if plan == bool(checkpoints):
        raise RecipeError("name checkpoint directories to measure, or plan one with --plan: one of the two")
    if not plan and (config or layers or layout):
        raise RecipeError("--config, --layers and --layout need --plan: a directory already has them")
    if plan:
        architecture = Architecture.read(config) if config else QWEN2_AUDIO_7B
        if layers:
            architecture = architecture.keep(*_two_counts(layers))
        sizes = [plan_size(architecture, each) for each in layout or [Layout.BF16]]
    else:
        sizes = [measure(directory) for directory in checkpoints or []]
    if as_json:
        typer.echo(json.dumps([each.to_json() for each in sizes], indent=2))
        return
    for each in sizes:
        Console().print(_size_table(each))


def _two_counts(layers: str) -> tuple[int, int]:
    tower, _, decoder = layers.partition(",")
    if not (tower.strip().isdecimal() and decoder.strip().isdecimal()):
        raise RecipeError(f"--layers takes two numbers, audio tower and decoder, as in 32,24: found {layers!r}")
    return int(tower), int(decoder)


def _size_table(size: Size) -> Table:
    bits = "" if size.bits_per_weight is None else f", {size.bits_per_weight:.2f} bits a weight"
    lines = [
        f"{size.logical_parameters:,} parameters{bits}",
        f'{size.stored_elements:,} elements without adapter (the paper\'s "Params")',
        f'{size.tensor_bytes / 1e9:.4g} GB with adapter (the paper\'s "Storage")',
    ]
    if size.file_bytes is not None and size.directory_bytes is not None:
        lines.append(f"files: {size.file_bytes:,} bytes of safetensors, {size.directory_bytes:,} in all")
    table = Table(title=escape(size.name), title_justify="left", caption="\n".join(lines), caption_justify="left")
    table.add_column()
    for heading in ("parameters", "stored elements", "bytes", "share"):
        table.add_column(heading, justify="right")
    everything = Share(size.logical_parameters, size.stored_elements + size.adapter_elements, size.tensor_bytes)
    for shares in (size.groups, size.dtypes, {"all": everything}):
        for name, share in shares.items():
            percent = f"{share.n_bytes / max(size.tensor_bytes, 1):.1%}"
            table.add_row(name, f"{share.logical:,}", f"{share.stored:,}", f"{share.n_bytes:,}", percent)
        table.add_section()
    return table


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
        _console.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
