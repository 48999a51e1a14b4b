"""`size`: parameters, stored elements and bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compress.errors import RecipeError
from compress.weights.architectures import QWEN2_AUDIO_7B, Architecture
from compress.weights.schemes import Embeddings
from compress.weights.size import Layout, Share, Size, measure, plan_size


def size(
    checkpoints: Annotated[list[Path] | None, typer.Argument(help="Directories to measure.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Size of a checkpoint that does not exist yet.")] = False,
    config: Annotated[Path | None, typer.Option(help="Plan for this config.json, not for Qwen2-Audio-7B.")] = None,
    layers: Annotated[str | None, typer.Option(help="Plan with so many layers: TOWER,DECODER, as 32,24.")] = None,
    layout: Annotated[list[Layout] | None, typer.Option(help="Plan in this layout; may be repeated.")] = None,
    embeddings: Annotated[
        Embeddings, typer.Option(help="Plan w4a16, int8 and fp8 with embeddings and lm_head in this.")
    ] = "bf16",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Parameters, stored elements and bytes of checkpoints, from their headers or planned from a configuration."""
    if plan == bool(checkpoints):
        raise RecipeError("name checkpoint directories to measure, or plan one with --plan: one of the two")
    if not plan and (config or layers or layout or embeddings != "bf16"):
        raise RecipeError("--config, --layers, --layout and --embeddings need --plan: a directory already has them")
    if plan:
        architecture = Architecture.read(config) if config else QWEN2_AUDIO_7B
        if layers:
            architecture = architecture.keep(*_two_counts(layers))
        sizes = [plan_size(architecture, each, embeddings) for each in layout or [Layout.BF16]]
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
