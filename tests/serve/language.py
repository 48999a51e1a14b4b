"""What a test may expect of a translation without knowing its words."""

from __future__ import annotations

import re

_HAN = re.compile("[\u4e00-\u9fff]")


def assert_german(text: str) -> None:
    assert text.strip()
    assert "\ufffd" not in text
    assert re.search("[A-Za-zÄÖÜäöüß]", text), text
    assert not _HAN.search(text), text


def assert_chinese(text: str) -> None:
    assert text.strip()
    assert "\ufffd" not in text
    assert _HAN.search(text), text


def assert_translations(german: str, chinese: str) -> None:
    """Both are translations of the same speech."""
    assert_german(german)
    assert_chinese(chinese)
    assert german != chinese
