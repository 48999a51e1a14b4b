"""Live speech, from a browser's microphone to its text."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.serve.language import assert_chinese, assert_german
from tests.serve.page.browser import gauge, go_to, seen, watch
from tests.serve.servers import wait_until

pytestmark = pytest.mark.browser

CARD = "#live-text .k-card"
TEXT = f"{CARD} .k-text"


def press(page: Page, name: str) -> None:
    page.locator("#microphone button", has_text=name).click()


def n_sessions(url: str) -> float:
    return gauge(url, "st_ws_sessions_active")


def test_text_grows_while_somebody_speaks(page: Page, page_url: str, pictures: Path) -> None:
    go_to(page, "Live")
    page.screenshot(path=pictures / "live-empty.png", full_page=True)
    page.get_by_label("While you speak").check()
    watch(page, TEXT)
    press(page, "Start")
    expect(page.locator(TEXT)).to_have_text(re.compile(r"\w+ \w+ \w+"))
    assert n_sessions(page_url) == 1
    page.screenshot(path=pictures / "live.png", full_page=True)
    expect(page.locator(TEXT)).not_to_have_text(page.locator(TEXT).text_content() or "")
    press(page, "Stop")
    expect(page.locator(f"{CARD}.k-done")).to_be_visible()
    text = page.locator(TEXT).text_content() or ""
    assert_german(text)
    growing = [each for each in seen(page) if each]
    assert len(growing) >= 2
    assert all(text.startswith(each) for each in growing), "nothing is taken back"
    wait_until(lambda: n_sessions(page_url) == 0)


def test_the_language_can_change_while_somebody_speaks(page: Page) -> None:
    go_to(page, "Live")
    press(page, "Start")
    expect(page.locator(TEXT)).to_have_text(re.compile("[A-Za-z]"))
    page.locator("#live-language").get_by_label("Chinese").check()
    expect(page.locator(TEXT)).to_have_text(re.compile("[\u4e00-\u9fff]"))
    press(page, "Stop")
    expect(page.locator(f"{CARD}.k-done")).to_be_visible()
    assert_chinese(page.locator(TEXT).text_content() or "")


def test_leaving_the_tab_ends_the_session(page: Page, page_url: str) -> None:
    go_to(page, "Live")
    press(page, "Start")
    expect(page.locator("#microphone")).to_contain_text("Listening")
    wait_until(lambda: n_sessions(page_url) == 1)
    go_to(page, "Translate")
    wait_until(lambda: n_sessions(page_url) == 0)
    go_to(page, "Live")
    expect(page.locator("#microphone button")).to_have_text("Start")


def test_a_browser_that_has_gone_ends_its_session(page: Page, page_url: str) -> None:
    go_to(page, "Live")
    press(page, "Start")
    expect(page.locator("#microphone")).to_contain_text("Listening")
    page.goto("about:blank")
    wait_until(lambda: n_sessions(page_url) == 0)
    page.goto(page_url)


def test_words_that_are_not_the_pages_are_refused(page_url: str) -> None:
    config = httpx.get(f"{page_url}/config").json()
    (microphone,) = [each["id"] for each in config["components"] if each["props"].get("elem_id") == "microphone"]
    silence = {"session": "none", "audio": "AAA=", "end": False}
    call = {"component_id": microphone, "fn_name": "converse", "session_hash": "somebody"}
    address = f"{page_url}/gradio_api/component_server"
    assert httpx.post(address, json={**call, "data": silence}).json()["over"]
    for wrong in (None, "AAAA", {}, {**silence, "audio": "?"}, {**silence, "audio": "AA=="}, {**silence, "more": 1}):
        assert httpx.post(address, json={**call, "data": wrong}).status_code == 400, wrong
