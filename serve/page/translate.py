"""The first tab: one recording, one model, its translation and subtitles."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import gradio as gr

from serve.client import ApiError, Client
from serve.page import controls
from serve.page.cards import empty_card, error_card, figures, run_card
from serve.page.runs import Run, Turn, Turns, follow
from serve.page.subtitles import downloads
from serve.page.variants import refusal
from serve.settings import Settings

_INVITATION: Final = "Upload a recording, speak, or pick an example. The translation appears here."
_MAX_COUNTDOWN_S: Final = 60  # a page that counts for longer looks broken

Update = tuple[Any, ...]  # of the card, the figures, the downloads, and the buttons to stop and to begin again


def translate_tab(client: Client, settings: Settings) -> gr.Dropdown:
    """Builds the tab; returns the choice of models, for whoever knows them to fill."""
    turns = Turns()
    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            audio = controls.recording("speech", settings.max_upload_bytes)
            language = controls.target_language("language", settings.to_language)
            model = controls.model("model")
        with gr.Column(scale=6, min_width=320):
            card = gr.HTML(empty_card(_INVITATION), elem_id="translation")
            panel = gr.HTML(figures(), elem_id="figures")
            with gr.Row(elem_classes="k-actions"):
                links = gr.HTML("", elem_id="subtitles")
                stop, again = controls.stop_and_again("Translate again")
    controls.examples(audio)

    async def translate(
        audio: str | None, language: str, model: str | None, request: gr.Request
    ) -> AsyncGenerator[Update, None]:
        async with turns.take(str(request.session_hash)) as turn:
            if audio is None:
                yield _update(empty_card(_INVITATION), "nothing")
                return
            async with aclosing(_translate(turn, client, Path(audio), language, model)) as updates:
                async for update in updates:
                    yield update

    controls.on(
        [audio.change, language.input, model.input, again.click],
        translate,
        [audio, language, model],
        [card, panel, links, stop, again],
    )
    controls.on_stop(stop, turns)
    return model


async def _translate(
    turn: Turn, client: Client, recording: Path, language: str, model: str | None
) -> AsyncGenerator[Update, None]:
    """Updates of the tab while one recording is translated."""
    yield _update(run_card(Run(), language), "stop")
    try:
        variants = await client.models()
        name = model or str(variants[0]["id"])
        if (trouble := refusal(variants, name, language)) is not None:
            raise trouble
        async with aclosing(follow(turn, client, recording, name, language)) as runs:
            async for run in runs:
                if run.error is not None:
                    raise run.error
                if run.ended is not None:
                    links = downloads(run.ended.cues, f"{recording.stem}.{language}")
                    yield _update(run_card(run, language), "again", run.ended.timings, links)
                else:
                    yield _update(run_card(run, language), "again" if run.stopped else "stop")
    except ApiError as error:
        # of a busy server, count down to when it may be asked again
        for left_s in range(min(_MAX_COUNTDOWN_S, error.wait_s), 0, -1):
            yield _update(error_card(error, left_s), "nothing")
            if not await turn.pause(1):
                return
        yield _update(error_card(error), "again")


def _update(
    card: str, button: controls.Shown, timings: Mapping[str, float | None] | None = None, links: str = ""
) -> Update:
    return card, figures(timings), links, *controls.show(button)
