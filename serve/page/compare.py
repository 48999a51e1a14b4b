"""The tab where all loaded models translate the same recording, one after the other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import gradio as gr

from serve.client import ApiError, Client
from serve.page import inputs
from serve.page.cards import error_card
from serve.page.columns import Column, columns
from serve.page.runs import begin_on, follow
from serve.page.variants import Variant, refusal
from serve.settings import Settings

Update = tuple[str, gr.Button]  # of the columns, and of the button to begin again


def compare_tab(client: Client, settings: Settings) -> gr.HTML:
    """Builds the tab; returns the columns, for whoever knows the models to fill with `blank`."""
    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            audio = inputs.recording("compare-speech", settings.max_upload_bytes)
        with gr.Column(scale=6, min_width=320):
            language = inputs.target_language("compare-language", settings.to_language)
            inputs.examples(audio)
            with gr.Row(elem_classes="k-actions"):
                again = gr.Button("Compare again", size="sm", elem_id="compare-again", visible=False)
    shown = gr.HTML(elem_id="columns", apply_default_css=False)

    async def compare(audio: str | None, language: str) -> AsyncGenerator[Update, None]:
        try:
            variants = await client.models()
        except ApiError as error:
            yield error_card(error), gr.Button(visible=audio is not None)
            return
        if audio is None:
            yield blank(variants, language), gr.Button(visible=False)
            return
        async for html in _compare(client, Path(audio), language, variants):
            yield html, gr.Button(visible=True)

    begin_on(
        [audio.change, language.input, again.click], compare, [audio, language], [shown, again], settings.max_requests
    )
    return shown


def blank(variants: list[Variant], language: str) -> str:
    """The columns before there is a recording."""
    return columns([Column(variant, "Its translation appears here.") for variant in variants], language)


async def _compare(
    client: Client, recording: Path, language: str, variants: list[Variant]
) -> AsyncGenerator[str, None]:
    """The columns while one model after the other translates: side by side they would slow each other down."""
    found = [Column(variant, "Waiting for its turn …") for variant in variants]
    for column in found:
        column.error = refusal([column.variant], column.variant["id"], language)
    yield columns(found, language)
    for column in found:
        if column.error is not None:
            continue
        column.note = "Listening …"
        async with aclosing(follow(client, recording, column.variant["id"], language)) as runs:
            async for run in runs:
                column.text, column.ended, column.error = run.text, run.ended, run.error
                yield columns(found, language)
