"""Every tab on a phone, and at night."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import ViewportSize

from serve.page.controls import EXAMPLES, title
from tests.serve.page.browser import finished, go_to, opened

pytestmark = pytest.mark.browser

PHONE = ViewportSize(width=390, height=844)
TABLET = ViewportSize(width=820, height=1100)
DESK = ViewportSize(width=1100, height=860)
# how far to the right anything visible reaches, in pixels
RIGHTMOST = """() => Math.max(
    document.documentElement.scrollWidth,
    ...[...document.querySelectorAll("main *")].map(each => each.getBoundingClientRect().right)
)"""


def test_every_tab_fits(page_url: str, pictures: Path) -> None:
    example = title(min(EXAMPLES.glob("*.flac")))
    with opened(page_url, scheme="dark") as page:
        page.get_by_role("button", name=example).first.click()
        finished(page, "de")
        for tab in ("Translate", "Live", "Compare"):
            go_to(page, tab)
            page.screenshot(path=pictures / f"{tab.lower()}-dark.png", full_page=True)
            for size in (PHONE, TABLET):
                page.set_viewport_size(size)
                page.screenshot(path=pictures / f"{tab.lower()}-{size['width']}.png", full_page=True)
                assert page.evaluate(RIGHTMOST) <= size["width"], tab
            page.set_viewport_size(DESK)
