"""The parts of the page that are plain HTML; `demo.css` dresses them."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

HEADER: Final = """
<header class="k-header">
  <svg viewBox="0 0 48 48" aria-hidden="true">
    <g stroke-width="4" stroke-linecap="round">
      <path d="M6 20v8M14 12v24M22 18v12M31 17h11M31 25h8M31 33h10" />
    </g>
  </svg>
  <div>
    <h1>Kompakt</h1>
    <p>Speak English. Read German or Chinese.</p>
  </div>
</header>
"""

NOTE: Final = """
<p class="k-note">Your recording goes to this server only, and is deleted within minutes.
A small model makes mistakes: check what matters.</p>
"""


def empty_card() -> str:
    """What stands in place of a text before there is one."""
    return _card("k-empty", "<p>Upload a recording, speak, or pick an example. The translation appears here.</p>")


def text_card(text: str, language: str, *, running: bool) -> str:
    """The translation, as far as it has come."""
    if not text:
        return _card("k-empty", "<p>Listening …</p>" if running else "<p>No speech was found in this recording.</p>")
    caret = '<span class="k-caret" aria-hidden="true"></span>' if running else ""
    return _card("k-running" if running else "k-done", f'<p class="k-text" lang="{language}">{escape(text)}{caret}</p>')


def error_card(message: str) -> str:
    """Why there is no translation, as a sentence."""
    sentence = message[:1].upper() + message[1:] + ("" if message.endswith(".") else ".")
    return _card("k-error", f"<h2>That did not work</h2><p>{escape(sentence)}</p>")


def figures(timings: Mapping[str, float | None] | None = None) -> str:
    """The four numbers under the text: a dash where there is none."""
    timings = timings or {}
    tiles = "".join(
        f"<div><dt>{label}</dt><dd>{_number(timings.get(key), unit, digits)}</dd></div>"
        for label, key, unit, digits in (
            ("Audio", "audio_s", " s", 1),
            ("First text after", "time_to_first_text_s", " s", 2),
            ("Done after", "total_s", " s", 2),
            ("Real-time factor", "real_time_factor", "", 2),
        )
    )
    return f'<dl class="k-figures">{tiles}</dl>'


def _card(kind: str, content: str) -> str:
    return f'<div class="k-card {kind}" role="status" aria-live="polite">{content}</div>'


def _number(value: float | None, unit: str, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}{unit}"
