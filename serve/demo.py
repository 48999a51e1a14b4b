"""The page at `/`: speech in, text appearing as it is generated.  A client of the HTTP API, like any other."""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from fastapi import FastAPI

# Gradio reads this when it is imported, and would otherwise call home.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

from compress.audio import WINDOW_S
from compress.prompt import LANGUAGES
from serve.client import ApiError, Client, Ended
from serve.demo_html import HEADER, NOTE, empty_card, error_card, figures, text_card
from serve.settings import Settings

EXAMPLES: Final = Path(__file__).parent / "examples"
_CSS: Final = Path(__file__).with_name("demo.css")
_UPLOADS_S: Final = 900  # recordings stay this long, so that one can be translated again into another language
_ENDONYMS: Final = {"de": "Deutsch", "zh": "中文"}

Update = tuple[str, str]  # HTML of the text card, HTML of the figures


def mount_page(app: FastAPI, settings: Settings, base_url: str) -> None:
    """Puts the page at `/` of the application; it calls the API at `base_url`."""
    uploads = TemporaryDirectory(prefix="kompakt-page-")  # readable by this user only
    atexit.register(uploads.cleanup)
    os.environ["GRADIO_TEMP_DIR"] = uploads.name
    page = build_page(Client(base_url, settings.timeout_s), settings.to_language, settings.max_requests)
    # Gradio checks that a file was uploaded only once a page is launched, which a mounted one never is: without this,
    # whoever reaches the page could have it read any file of this machine.
    page.has_launched = True
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[str(EXAMPLES)],
        max_file_size=settings.max_upload_bytes,
        theme=_theme(),
        css_paths=_CSS,
    )


def build_page(client: Client, to_language: str, concurrency: int) -> gr.Blocks:
    """The page's components and what happens between them."""

    async def offer_models() -> Any:
        names = [model["id"] for model in await client.models()]
        return gr.Dropdown(choices=names, value=names[0], interactive=len(names) > 1)

    async def translate(audio: str | None, language: str, model: str | None) -> AsyncGenerator[Update, None]:
        if audio is None:
            yield empty_card(), figures()
            return
        async for update in _translate(client, Path(audio), language, model):
            yield update

    page: gr.Blocks = gr.Blocks(
        title="Kompakt: speech translation", delete_cache=(60, _UPLOADS_S), analytics_enabled=False
    )
    with page:
        gr.HTML(HEADER)
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                audio = gr.Audio(
                    label=f"English speech, up to {WINDOW_S} seconds",
                    sources=["upload", "microphone"],
                    type="filepath",
                    editable=False,
                    buttons=[],
                    elem_id="speech",
                )
                _refuse_addresses(audio)
                choices = [(f"{language.name} · {_ENDONYMS[code]}", code) for code, language in LANGUAGES.items()]
                language = gr.Radio(choices, value=to_language, label="Translate into", elem_id="language")
                # A page that outlived its server knows more models than the new session; the API has the last word.
                model = gr.Dropdown([], label="Model", elem_id="model", allow_custom_value=True)
                if clips := sorted(EXAMPLES.glob("*.flac")):
                    labels = [clip.stem.replace("_", " ") for clip in clips]
                    gr.Examples([[str(clip)] for clip in clips], [audio], example_labels=labels, label="Examples")
            with gr.Column(scale=6, min_width=320):
                card = gr.HTML(empty_card(), elem_id="translation")
                panel = gr.HTML(figures(), elem_id="figures")
                again = gr.Button("Translate again", size="sm", elem_id="again")
        gr.HTML(NOTE)
        page.load(offer_models, outputs=[model], api_visibility="private")
        gr.on(
            [audio.change, language.input, model.input, again.click],
            translate,
            inputs=[audio, language, model],
            outputs=[card, panel],
            show_progress="hidden",
            trigger_mode="always_last",
            concurrency_limit=concurrency,
            api_visibility="private",
        )
    return page


async def _translate(client: Client, audio: Path, language: str, model: str | None) -> AsyncGenerator[Update, None]:
    """Updates of the page while one recording is translated."""
    text = ""
    yield text_card(text, language, running=True), figures()
    try:
        name = model or str((await client.models())[0]["id"])
        recording = await asyncio.to_thread(audio.read_bytes)
        async with aclosing(client.translate(recording, name, language)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Ended):
                    yield text_card(piece.text, language, running=False), figures(piece.timings)
                else:
                    text += piece
                    yield text_card(text, language, running=True), figures()
    except ApiError as error:
        yield error_card(str(error)), figures()


def _refuse_addresses(audio: gr.Audio) -> None:
    """Makes the input take uploaded files only: Gradio's own would fetch a URL for whoever sends one."""
    keep = audio.async_move_resource_to_block_cache

    async def keep_file(path: str | Path | None) -> str | None:
        if str(path).startswith(("http:", "https:")):
            raise gr.Error("audio is taken as a file, not from an address", print_exception=False)
        return await keep(path)

    # A subclass would do, but Gradio writes a stub file beside the source of every subclass.
    audio.async_move_resource_to_block_cache = keep_file  # type: ignore[assignment, method-assign]


def _theme() -> gr.themes.Base:
    # Fonts of the reader's own system: nothing is fetched from anywhere.
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "sans-serif")
    theme = gr.themes.Soft(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=fonts,
        font_mono=("ui-monospace", "monospace"),
    )
    plain = {
        f"block_{part}_{style}{mode}": value
        for part in ("label", "title")
        for mode in ("", "_dark")
        for style, value in (("background_fill", "transparent"), ("text_color", "*body_text_color_subdued"))
    }
    return theme.set(
        **plain,
        block_label_text_weight="500",
        block_title_text_weight="500",
        block_border_width="1px",
        block_border_width_dark="1px",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_shadow="none",
        block_shadow_dark="none",
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_900",
        block_background_fill_dark="*neutral_800",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
    )
