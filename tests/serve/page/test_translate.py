"""The first tab in a real browser."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from serve.page.controls import EXAMPLES, title
from tests.serve.language import assert_german, assert_translations
from tests.serve.page.browser import CARD, finished, gauge, seen, upload, watch
from tests.serve.page.conftest import N_PLACES
from tests.serve.servers import wait_until

pytestmark = pytest.mark.browser

TRANSLATIONS = "/v1/audio/translations"


def download(page: Page, kind: str) -> tuple[str, str]:
    """Name and content of a subtitle file."""
    with page.expect_download() as caught:
        page.locator("#subtitles a", has_text=kind).click()
    return caught.value.suggested_filename, caught.value.path().read_text(encoding="utf-8")


def test_upload_then_switch_the_language(page: Page, clip: Path, pictures: Path) -> None:
    page.screenshot(path=pictures / "empty.png", full_page=True)
    upload(page, clip)
    german = finished(page, "de")
    numbers = page.locator("#figures dd").all_inner_texts()
    assert len(numbers) == 4
    assert all(re.fullmatch(r"\d+\.\d+( s)?", number) for number in numbers), numbers
    page.screenshot(path=pictures / "german.png", full_page=True)
    page.get_by_label("Chinese").first.check()
    chinese = finished(page, "zh")
    assert_translations(german, chinese)


def test_a_long_recording_grows_and_has_subtitles(page: Page, talk: Path, page_url: str, pictures: Path) -> None:
    watch(page, f"{CARD} .k-text")
    upload(page, talk)
    text = finished(page, "de")
    page.screenshot(path=pictures / "long.png", full_page=True)
    growing = [each for each in seen(page) if each and each != text]
    assert len(growing) >= 3, growing
    assert all(text.startswith(each) for each in growing), (growing, text)
    fields = {"model": "pocket", "to_language": "de"}
    for kind in ("srt", "vtt"):
        name, content = download(page, kind)
        assert name == f"talk.de.{kind}"
        with talk.open("rb") as file:
            answer = httpx.post(
                page_url + TRANSLATIONS, files={"file": file}, data={**fields, "response_format": kind}, timeout=None
            )
        assert content == answer.raise_for_status().text


def test_stopping_and_leaving_free_the_server(page: Page, talk: Path, page_url: str, pictures: Path) -> None:
    upload(page, talk)
    expect(page.locator(f"{CARD}.k-running .k-text")).not_to_have_text("")
    page.get_by_role("button", name="Stop", exact=True).first.click()
    expect(page.locator(f"{CARD}.k-done")).to_contain_text("…")
    wait_until(lambda: gauge(page_url, "st_inflight_requests") == 0)
    page.screenshot(path=pictures / "stopped.png", full_page=True)
    page.get_by_role("button", name="Translate again").click()
    expect(page.locator(f"{CARD}.k-running .k-text")).not_to_have_text("")
    page.goto("about:blank")
    wait_until(lambda: gauge(page_url, "st_inflight_requests") == 0)
    page.goto(page_url)


def test_junk_is_a_readable_message(page: Page, junk: Path, clip: Path, pictures: Path) -> None:
    upload(page, junk)
    expect(page.locator(f"{CARD}.k-error")).to_contain_text("Not an audio file we can read; supported formats: wav")
    assert "Traceback" not in page.content()
    page.screenshot(path=pictures / "junk.png", full_page=True)
    page.get_by_label("Clear", exact=True).first.click()
    expect(page.locator(CARD)).to_contain_text("The translation appears here")
    upload(page, clip)
    assert_german(finished(page, "de"))


def test_a_busy_server_says_when_to_come_back(page: Page, page_url: str, pictures: Path) -> None:
    watch(page, f"{CARD} h2")
    host, port = urlsplit(page_url).netloc.split(":")
    head = f"POST {TRANSLATIONS} HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with ExitStack() as places:
        for _ in range(N_PLACES):  # uploads that go no further
            place = places.enter_context(socket.create_connection((host, int(port))))
            place.sendall(f"{head}Content-Length: 5000\r\n\r\n--x".encode())
        wait_until(lambda: gauge(page_url, "st_inflight_requests") == N_PLACES)
        example(page).click()
        expect(page.locator(f"{CARD}.k-error")).to_contain_text("You can try again now")
        page.screenshot(path=pictures / "busy.png", full_page=True)
        assert "Busy: try again in 1 s" in seen(page)
    wait_until(lambda: gauge(page_url, "st_inflight_requests") == 0)
    page.get_by_role("button", name="Translate again").click()
    assert_german(finished(page, "de"))


def test_a_model_is_not_asked_for_what_it_was_not_made_for(page: Page) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name="pruned").click()
    page.get_by_label("Chinese").first.check()
    example(page).click()
    expect(page.locator(f"{CARD}.k-error")).to_contain_text("Pruned was made for German only.")


def test_speech_from_the_microphone(page: Page, pictures: Path) -> None:
    page.get_by_label("Record audio").first.click()
    page.get_by_role("button", name="Record", exact=True).first.click()
    expect(page.locator("#speech")).to_contain_text("0:05")
    page.get_by_role("button", name="Stop", exact=True).first.click()
    assert_german(finished(page, "de"))
    page.screenshot(path=pictures / "microphone.png", full_page=True)


def example(page: Page) -> Locator:
    """The button of an example."""
    return page.get_by_role("button", name=title(min(EXAMPLES.glob("*.flac")))).first
