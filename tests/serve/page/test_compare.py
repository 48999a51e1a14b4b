"""Models side by side, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.serve.language import assert_chinese, assert_german
from tests.serve.page.browser import go_to, upload

pytestmark = pytest.mark.browser


def column(page: Page, model: str) -> Locator:
    return page.locator(f"#columns section[aria-label={model}]")


def said(of: Locator, language: str) -> str:
    """What a model made of the recording, once it is done."""
    expect(of.locator(f".k-done [lang={language}]")).to_be_visible()
    return of.locator(".k-text").inner_text()


def test_two_models_translate_the_same_recording(page: Page, clip: Path, pictures: Path) -> None:
    go_to(page, "Compare")
    full, small = column(page, "pocket"), column(page, "pruned")
    for each, layers, size in ((full, "12", "39.6 MB"), (small, "11", "38.1 MB")):
        expect(each.locator(".k-facts")).to_contain_text(f"Size on disk{size}Parameters")
        expect(each.locator(".k-facts")).to_contain_text(f"Decoder layers{layers}")
    expect(full.locator(".k-scores")).to_contain_text("Scores, report splitBLEUchrF++")
    expect(small.locator(".k-scores")).to_have_text("Scores: not measured.")
    upload(page, clip, "#compare-speech")
    for each in (full, small):
        assert_german(said(each, "de"))
        numbers = each.locator(".k-figures dd").all_inner_texts()
        assert len(numbers) == 3
        assert all(re.fullmatch(r"\d+\.\d+( s)?", number) for number in numbers), numbers
    page.screenshot(path=pictures / "compare.png", full_page=True)
    page.locator("#compare-language").get_by_label("Chinese").check()
    expect(small.locator(".k-error")).to_contain_text("Pruned was made for German only.")
    assert_chinese(said(full, "zh"))
    expect(full.locator(".k-scores")).to_contain_text("BLEUchrFtalks")
