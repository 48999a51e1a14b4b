"""The page in a real browser.  `KOMPAKT_SCREENSHOTS=DIR` keeps its pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

import serve
from tests.serve.language import assert_chinese, assert_german, assert_translations
from tests.serve.servers import PATIENCE_S

pytestmark = pytest.mark.browser

BROWSER = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
CARD = "#translation .k-card"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(os.environ.get("KOMPAKT_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="module", params=["light", "dark"])
def page(request: pytest.FixtureRequest, page_url: str, clips: list[Path]) -> Iterator[Page]:
    with sync_playwright() as playwright:
        speech = f"--use-file-for-fake-audio-capture={clips[1]}%noloop"
        browser = playwright.chromium.launch(executable_path=BROWSER, args=[*FLAGS, speech])
        context = browser.new_context(
            color_scheme=request.param, viewport={"width": 1100, "height": 860}, permissions=["microphone"]
        )
        context.set_default_timeout(PATIENCE_S * 1000)
        expect.set_options(timeout=PATIENCE_S * 1000)
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_url)
        yield page
        strangers = [each for each in asked if not each.startswith((page_url, "data:", "blob:"))]
        assert not strangers, "the page asks nobody but its own server"
        browser.close()


@pytest.fixture(autouse=True)
def fresh(page: Page) -> None:
    page.reload()
    expect(page.locator("#model input")).to_have_value("pocket")


def finished(page: Page, language: str) -> str:
    """The text of the card once it is complete."""
    expect(page.locator(f"{CARD}.k-done [lang={language}]")).to_be_visible()
    return page.locator(f"{CARD} .k-text").inner_text()


def upload(page: Page, file: Path) -> None:
    page.set_input_files("#speech input[type=file]", file)


def test_upload_then_switch_the_language(
    page: Page, clip: Path, pictures: Path, request: pytest.FixtureRequest
) -> None:
    theme = request.node.callspec.params["page"]
    page.screenshot(path=pictures / f"empty-{theme}.png", full_page=True)
    upload(page, clip)
    german = finished(page, "de")
    numbers = page.locator("#figures dd").all_inner_texts()
    assert len(numbers) == 4
    assert all(re.fullmatch(r"\d+\.\d+( s)?", number) for number in numbers), numbers
    page.screenshot(path=pictures / f"german-{theme}.png", full_page=True)
    page.get_by_label("Chinese").check()
    chinese = finished(page, "zh")
    assert_translations(german, chinese)
    page.screenshot(path=pictures / f"chinese-{theme}.png", full_page=True)


def test_text_grows_while_it_is_generated(page: Page, clip: Path) -> None:
    page.evaluate(
        """() => {
            window.seen = [];
            const look = () => window.seen.push(document.querySelector('#translation .k-text')?.innerText ?? '');
            new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
        }"""
    )
    upload(page, clip)
    text = finished(page, "de")
    seen = list(dict.fromkeys(page.evaluate("() => window.seen")))
    assert len([each for each in seen if each and each != text and text.startswith(each)]) >= 1, seen


def test_junk_is_a_readable_message(
    page: Page, junk: Path, clip: Path, pictures: Path, request: pytest.FixtureRequest
) -> None:
    upload(page, junk)
    expect(page.locator(f"{CARD}.k-error")).to_contain_text("Not an audio file we can read; supported formats: wav")
    assert "Traceback" not in page.content()
    page.screenshot(path=pictures / f"junk-{request.node.callspec.params['page']}.png", full_page=True)
    page.get_by_label("Chinese").check()
    expect(page.locator(f"{CARD}.k-error")).to_be_visible()
    page.get_by_label("Clear", exact=True).first.click()
    upload(page, clip)
    assert_chinese(finished(page, "zh"))


def test_an_example_is_one_click_away(page: Page) -> None:
    example = min((Path(serve.__file__).parent / "examples").glob("*.flac"))
    page.get_by_role("button", name=example.stem.replace("_", " ")).click()
    assert_german(finished(page, "de"))


def test_speech_from_the_microphone(page: Page, pictures: Path) -> None:
    page.get_by_label("Record audio").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(3500)
    page.get_by_role("button", name="Stop", exact=True).first.click()
    assert_german(finished(page, "de"))
    page.screenshot(path=pictures / "microphone.png", full_page=True)


def test_the_page_fits_a_phone(page: Page, pictures: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.screenshot(path=pictures / "phone.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1100, "height": 860})
