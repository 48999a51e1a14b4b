"""The first tab: one recording, one model, its translation and subtitles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import gradio as gr

from serve.client import ApiError, Client
from serve.page import inputs
from serve.page.cards import empty_card, error_card, figures, stopped, text_card
from serve.page.runs import begin_on, follow
from serve.page.subtitles import downloads
from serve.page.variants import refusal
from serve.settings import Settings

_INVITATION: Final = "Upload a recording, speak, or pick an example. The translation appears here."
_MAX_COUNTDOWN_S: Final = 60  # a page that counts for longer looks broken

Update = tuple[Any, ...]  # of the card, the figures, the downloads, and the buttons to stop and to begin again


def translate_tab(client: Client, settings: Settings) -> gr.Dropdown:
    """Builds the tab; returns the choice of models, for whoever knows them to fill."""
    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            audio = inputs.recording("speech", settings.max_upload_bytes)
            language = inputs.target_language("language", settings.to_language)
            model = inputs.model("model")
        with gr.Column(scale=6, min_width=320):
            card = gr.HTML(empty_card(_INVITATION), elem_id="translation")
            panel = gr.HTML(figures(), elem_id="figures")
            with gr.Row(elem_classes="k-actions"):
                links = gr.HTML("", elem_id="subtitles")
                stop = gr.Button("Stop", size="sm", elem_id="stop", visible=False)
                again = gr.Button("Translate again", size="sm", elem_id="again", visible=False)
    inputs.examples(audio)

    async def translate(audio: str | None, language: str, model: str | None) -> AsyncGenerator[Update, None]:
        if audio is None:
            yield _update(empty_card(_INVITATION))
            return
        async for update in _translate(client, Path(audio), language, model):
            yield update

    run = begin_on(
        [audio.change, language.input, model.input, again.click],
        translate,
        [audio, language, model],
        [card, panel, links, stop, again],
        settings.max_requests,
    )
    stop.click(None, cancels=[run])
    stop.click(
        lambda shown: (stopped(shown), gr.Button(visible=False), gr.Button(visible=True)),
        [card],
        [card, stop, again],
        show_progress="hidden",
        api_visibility="private",
    )
    return model


async def _translate(client: Client, recording: Path, language: str, model: str | None) -> AsyncGenerator[Update, None]:
    """Updates of the tab while one recording is translated."""
    yield _update(text_card("", language, running=True), running=True)
    try:
        variants = await client.models()
        name = model or str(variants[0]["id"])
        if (trouble := refusal(variants, name, language)) is not None:
            raise trouble
        async with aclosing(follow(client, recording, name, language)) as runs:
            async for run in runs:
                if run.error is not None:
                    raise run.error
                if run.ended is None:
                    yield _update(text_card(run.text, language, running=True), running=True)
                else:
                    links = downloads(run.ended.cues, f"{recording.stem}.{language}")
                    yield _update(text_card(run.text, language, running=False), run.ended.timings, links, over=True)
    except ApiError as error:
        # of a busy server, count down to when it may be asked again
        for left_s in range(min(_MAX_COUNTDOWN_S, error.wait_s), 0, -1):
            yield _update(error_card(error, left_s))
            await asyncio.sleep(1)
        yield _update(error_card(error), over=True)


def _update(
    card: str,
    timings: Mapping[str, float | None] | None = None,
    links: str = "",
    *,
    running: bool = False,
    over: bool = False,
) -> Update:
    return card, figures(timings), links, gr.Button(visible=running), gr.Button(visible=over)
