"""Chromium on the page: how it is started, what is done there, what is expected of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx
from playwright.sync_api import Page, expect, sync_playwright

from tests.serve.servers import PATIENCE_S

CARD = "#translation .k-card"
Scheme = Literal["light", "dark"]

_BROWSER = "/usr/bin/chromium"
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@contextmanager
def opened(url: str, speech: Path | None = None, scheme: Scheme = "light", height: int = 860) -> Iterator[Page]:
    """The page in a browser of its own; `speech` is what its microphone hears, again and again."""
    heard = [f"--use-file-for-fake-audio-capture={speech}"] if speech is not None else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_BROWSER, args=[*_FLAGS, *heard])
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": 1100, "height": height}, permissions=["microphone"]
        )
        context.set_default_timeout(PATIENCE_S * 1000)
        expect.set_options(timeout=PATIENCE_S * 1000)
        page = context.new_page()
        page.goto(url)
        ready(page)
        yield page
        browser.close()


def ready(page: Page) -> None:
    """Waits until the page knows the models."""
    expect(page.locator("#model input")).to_have_value("pocket")


def go_to(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def upload(page: Page, file: Path, where: str = "#speech") -> None:
    page.set_input_files(f"{where} input[type=file]", file)


def finished(page: Page, language: str) -> str:
    """The text of the card once it is complete."""
    expect(page.locator(f"{CARD}.k-done [lang={language}]")).to_be_visible()
    return page.locator(f"{CARD} .k-text").inner_text()


def gauge(url: str, name: str) -> float:
    """The server's own figure of that name."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def watch(page: Page, selector: str) -> None:
    """Notes every text that an element shows from now on; see `seen`."""
    page.evaluate(
        """selector => {
            window.seen = [];
            const look = () => window.seen.push(document.querySelector(selector)?.textContent ?? "");
            new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
        }""",
        selector,
    )


def seen(page: Page) -> list[str]:
    """What was shown since `watch`, each text once."""
    return list(dict.fromkeys(page.evaluate("() => window.seen")))
