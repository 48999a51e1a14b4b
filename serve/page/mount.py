"""The page as a whole, and its place in the application."""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from fastapi import FastAPI

# Gradio reads this when it is imported, and would otherwise call home.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

from serve.client import Client
from serve.metrics import Metrics
from serve.page import controls
from serve.page.cards import HEADER, NOTE
from serve.page.compare import blank, compare_tab
from serve.page.live import live_tab
from serve.page.theme import theme
from serve.page.translate import translate_tab
from serve.page.uploads import Uploads
from serve.settings import Settings

_STYLE: Final = Path(__file__).with_name("style.css")
_UPLOADS_S: Final = 900  # recordings stay this long, so that one can be translated again into another language
_MAX_UPLOADS: Final = 200  # recordings that are kept at a time


def mount_page(app: FastAPI, settings: Settings, metrics: Metrics, base_url: str, key: str = "") -> None:
    """Puts the page at `/` of the application; it calls the API at `base_url`, with `key` if that asks for one."""
    uploads = TemporaryDirectory(prefix="kompakt-page-")  # readable by this user only
    atexit.register(uploads.cleanup)
    app.add_middleware(Uploads, folder=Path(uploads.name), max_files=_MAX_UPLOADS, metrics=metrics)
    os.environ["GRADIO_TEMP_DIR"] = uploads.name
    page = build_page(Client(base_url, settings.timeout_s, key=key), settings)
    # Gradio checks that a file was uploaded only once a page is launched, which a mounted one never is: without this,
    # whoever reaches the page could have it read any file of this machine.
    page.has_launched = True
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[str(controls.EXAMPLES)],
        max_file_size=settings.max_upload_bytes,
        theme=theme(),
        css_paths=_STYLE,
    )


def build_page(client: Client, settings: Settings) -> gr.Blocks:
    """The page's tabs, and what they show when it is opened."""
    page: gr.Blocks = gr.Blocks(
        title="Kompakt: speech translation", delete_cache=(60, _UPLOADS_S), analytics_enabled=False
    )
    with page:
        gr.HTML(HEADER)
        with gr.Tabs():
            with gr.Tab("Translate", elem_id="tab-translate"):
                model = translate_tab(client, settings)
            with gr.Tab("Live", elem_id="tab-live"):
                live_model = live_tab(client, settings)
            with gr.Tab("Compare", elem_id="tab-compare"):
                compared = compare_tab(client, settings)
        gr.HTML(NOTE)

        async def greet() -> tuple[Any, ...]:
            models = await client.models()
            return controls.offer(models), controls.offer(models), blank(models, settings.to_language)

        page.load(greet, outputs=[model, live_model, compared], api_visibility="private")
    page.max_threads = settings.max_connections  # of Gradio's own 40 at a time, others would wait without a word
    page.queue(default_concurrency_limit=None)
    return page
