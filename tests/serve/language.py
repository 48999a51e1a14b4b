"""What a test may expect of a translation without knowing its words."""

from __future__ import annotations

import re

from compress.checkpoint import POCKET, Checkpoint

_HAN = re.compile("[\u4e00-\u9fff]")
# A checkpoint that was written by training says more of itself than its name.
_TRAINED = len(Checkpoint.open(POCKET).lineage) > 1


def assert_german(text: str) -> None:
    assert text.strip()
    assert "\ufffd" not in text
    if _TRAINED:
        assert re.search("[A-Za-zÄÖÜäöüß]", text), text
        assert not _HAN.search(text), text


def assert_chinese(text: str) -> None:
    assert text.strip()
    assert "\ufffd" not in text
    if _TRAINED:
        assert _HAN.search(text), text


def assert_translations(german: str, chinese: str) -> None:
    """Both are translations of the same speech."""
    assert_german(german)
    assert_chinese(chinese)
    if _TRAINED:
        assert german != chinese
