"""The tab where all loaded models translate the same recording, one after the other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from serve.client import ApiError, Client
from serve.page import controls
from serve.page.cards import error_card
from serve.page.columns import Column, columns
from serve.page.runs import Run, Turn, Turns, follow
from serve.page.variants import Variant, refusal
from serve.settings import Settings

Update = tuple[Any, ...]  # of the columns, and of the buttons to stop and to begin again


def compare_tab(client: Client, settings: Settings) -> gr.HTML:
    """Builds the tab; returns the columns, for whoever knows the models to fill with `blank`."""
    turns = Turns()
    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            audio = controls.recording("compare-speech", settings.max_upload_bytes)
        with gr.Column(scale=6, min_width=320):
            language = controls.target_language("compare-language", settings.to_language)
            controls.examples(audio)
            with gr.Row(elem_classes="k-actions"):
                stop, again = controls.stop_and_again("Compare again")
    shown = gr.HTML(elem_id="columns", apply_default_css=False)

    async def compare(audio: str | None, language: str, request: gr.Request) -> AsyncGenerator[Update, None]:
        async with turns.take(str(request.session_hash)) as turn:
            try:
                variants = await client.models()
            except ApiError as error:
                yield error_card(error), *controls.show("again")
                return
            if audio is None:
                yield blank(variants, language), *controls.show("nothing")
                return
            async with aclosing(_compare(turn, client, Path(audio), language, variants)) as updates:
                async for update in updates:
                    yield update

    controls.on([audio.change, language.input, again.click], compare, [audio, language], [shown, stop, again])
    controls.on_stop(stop, turns)
    return shown


def blank(variants: list[Variant], language: str) -> str:
    """The columns before there is a recording."""
    return columns([Column(variant, "Its translation appears here.") for variant in variants], language)


async def _compare(
    turn: Turn, client: Client, recording: Path, language: str, variants: list[Variant]
) -> AsyncGenerator[Update, None]:
    """The columns while one model after the other translates: side by side they would slow each other down."""
    found = [Column(variant, "Waiting for its turn …") for variant in variants]
    for column in found:
        if (trouble := refusal([column.variant], column.variant["id"], language)) is not None:
            column.run = Run(error=trouble)
    for column in found:
        if column.run is not None or turn.stopped.is_set():
            continue
        column.run = Run()
        yield columns(found, language), *controls.show("stop")
        async with aclosing(follow(turn, client, recording, column.variant["id"], language)) as runs:
            async for run in runs:
                column.run = run
                yield columns(found, language), *controls.show("stop")
    yield columns(found, language), *controls.show("again")
