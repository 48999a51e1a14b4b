"""`doctor` and `export`: verbs about one checkpoint directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compress.audio import decode
from compress.commands.console import console
from compress.errors import RecipeError
from compress.prompt import translation
from compress.recipe_stages import CALIBRATED, Export
from compress.validation import validate
from compress.weights.schemes import Embeddings

if TYPE_CHECKING:
    from compress.prompt import Prompt
    from compress.training.collate import TrainingExample


def doctor(
    checkpoint: Annotated[Path, typer.Argument(help="Directory to examine.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What is wrong with a checkpoint, and which engines can serve it; nothing is loaded.  Fails if none can."""
    from compress.doctor import examine

    report = examine(checkpoint)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        table = Table(title=escape(str(report.path)), title_justify="left")
        table.add_column("check")
        table.add_column("found")
        for check, findings in report.checks.items():
            table.add_row(check, escape("\n".join(one.message for one in findings)) or "[green]well")
        for engine in report.engines:
            verdict = "[green]can serve it" if engine.serves else "[red]cannot serve it"
            needs = f", with {', '.join(engine.needs)}" if engine.serves and engine.needs else ""
            where = f", {engine.where}" if engine.serves and engine.where else ""
            table.add_row(engine.name, verdict + needs + where)
        Console().print(table)
    if not any(engine.serves for engine in report.engines):
        raise typer.Exit(1)


def export(
    checkpoint: Annotated[str, typer.Argument(help="The checkpoint: pocket, a directory, or a hub name.")],
    out: Annotated[Path | None, typer.Option(help="Directory to write.", file_okay=False)] = None,
    layout: Annotated[
        str, typer.Option(help="bf16, paper, compact, or what vLLM has kernels for: w4a16, int8, fp8.")
    ] = "compact",
    merge: Annotated[bool, typer.Option("--merge", help="Add the adapter to the weights.")] = False,
    modules: Annotated[str, typer.Option(help="What compact has in 4 bits: all, or the decoder alone.")] = "all",
    embeddings: Annotated[
        str, typer.Option(help="Of vLLM's layouts, embeddings and lm_head: bf16, or int8 (vLLM: GPUs alone).")
    ] = "bf16",
    recipe: Annotated[
        str | None, typer.Option(help="Whose training data, language and prompt w4a16 and int8 are calibrated with.")
    ] = None,
    calibration: Annotated[int | None, typer.Option(help="How many of its utterances: 128, or so many.", min=1)] = None,
    clip: Annotated[
        Path | None, typer.Option(help="Speech that it has to translate before it counts.", exists=True, dir_okay=False)
    ] = None,
    to: Annotated[str, typer.Option(help="Language of that trial.")] = "de",
    push: Annotated[str | None, typer.Option(help="Upload the result to OWNER/NAME on the hub.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what --push would upload.")] = False,
) -> None:
    """Write a checkpoint in another layout, prove that it loads and translates, and publish it if asked."""
    from compress import export as exports
    from compress import hub

    if layout not in (layouts := get_args(Export.model_fields["layout"].annotation)):
        raise RecipeError(f"no layout {layout!r}; layouts: {', '.join(layouts)}")
    if modules not in ("all", "decoder"):
        raise RecipeError(f"no modules {modules!r}; modules: all, decoder")
    if embeddings not in (choices := get_args(Embeddings)):
        raise RecipeError(f"no embeddings {embeddings!r}; embeddings: {', '.join(choices)}")
    if out is None and push is None:
        raise RecipeError("name a directory to write with --out, a repository with --push, or both")
    if dry_run and push is None:
        raise RecipeError("--dry-run belongs to --push")
    made = hub.fetch(checkpoint)
    if out is not None:
        if clip is None:
            raise RecipeError("--out needs a --clip of English speech to prove that the result translates")
        settings = {
            "layout": layout,
            "merge": merge,
            "modules": modules,
            "calibration": calibration,
            "embeddings": embeddings,
        }
        stage = validate(Export, settings, "the export")
        training, prompt = _calibration(recipe, stage)
        made = exports.run(
            stage, made, out, clip=decode(clip, max_s=30), prompt=prompt or translation(to), training=training
        )
        trial = escape(repr(made.lineage["trial"]))
        console.print(f"{escape(str(made.path))}: {made.n_bytes / 1e6:.1f} MB, {trial}", soft_wrap=True)
    if push is not None:
        upload = exports.push(made, push, dry_run=dry_run)
        for path, size in upload.files:
            console.print(f"{size:>14,}  {escape(path)}", highlight=False)
        done = "would be uploaded" if dry_run else "uploaded"
        console.print(f"{upload.n_bytes:,} bytes {done} to {escape(push)}")


def _calibration(recipe: str | None, stage: Export) -> tuple[list[TrainingExample], Prompt | None]:
    """Training data and the prompt that goes with it, where the layout needs them."""
    from compress import dataset
    from compress import recipe as recipes
    from compress.training.collate import training_examples

    if not stage.n_calibration:
        if recipe is not None:
            raise RecipeError(f"--recipe is for layouts that are calibrated: {', '.join(CALIBRATED)}")
        return [], None
    if recipe is None:
        raise RecipeError(f"layout {stage.layout} is calibrated with a recipe's training data: name it with --recipe")
    chosen = recipes.load(recipe)
    utterances = dataset.load(chosen.data, chosen.language, "train").utterances
    return training_examples(utterances), chosen.wording
