"""The parts of the page that are plain HTML; `style.css` dresses them."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

from serve.client import ApiError
from serve.page.runs import Run

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

# label, key of the server's timings, unit, digits, what it means
_FIGURES: Final = (
    ("Audio", "audio_s", " s", 1, "How long the recording is"),
    ("First text after", "time_to_first_text_s", " s", 2, "From the upload to the first words"),
    ("Done after", "total_s", " s", 2, "From the upload to the last word"),
    ("Real-time factor", "real_time_factor", "", 2, "Seconds of work for a second of speech"),
)
_CARET: Final = '<span class="k-caret" aria-hidden="true"></span>'
_LONG_S: Final = 100  # from here on minutes say more than seconds


def empty_card(message: str) -> str:
    """What stands in place of a text before there is one."""
    return _card("empty", f"<p>{message}</p>")


def run_card(run: Run, language: str) -> str:
    """A translation, as far as it has come."""
    if run.error is not None:
        return error_card(run.error, run.error.wait_s)
    over = run.ended is not None or run.stopped
    if not run.text:
        said = "Listening …" if not over else "Stopped." if run.stopped else "No speech was found in this recording."
        return empty_card(said)
    kind, end = ("done", " …" if run.stopped else "") if over else ("running", _CARET)
    return _card(kind, f'<p class="k-text" lang="{language}">{escape(run.text)}{end}</p>')


def error_card(error: ApiError, wait_s: int = 0) -> str:
    """Why there is no translation; if the server is only busy, for how many seconds to wait."""
    if error.retry_after_s is not None and not wait_s:
        return _card("error", "<h2>You can try again now</h2><p>The server was busy.</p>")
    return _card("error", f"<h2>{heading(error, wait_s)}</h2><p>{escape(sentence(error))}</p>")


def heading(error: ApiError, wait_s: int) -> str:
    """What stands above an error's message: of a busy server, for how many seconds to wait."""
    return "That did not work" if error.retry_after_s is None else f"Busy: try again in {wait_s} s"


def sentence(error: ApiError) -> str:
    """An error's message as a sentence."""
    message = str(error)
    return message[:1].upper() + message[1:] + ("" if message.endswith(".") else ".")


def figures(timings: Mapping[str, float | None] | None = None, *, with_audio: bool = True) -> str:
    """The numbers under a text, the recording's length among them if asked for: a dash where there is none."""
    timings = timings or {}
    tiles = "".join(
        f'<div title="{meaning}"><dt>{label}</dt><dd>{_number(timings.get(key), unit, digits)}</dd></div>'
        for label, key, unit, digits, meaning in _FIGURES[0 if with_audio else 1 :]
    )
    return f'<dl class="k-figures">{tiles}</dl>'


def _card(kind: str, content: str) -> str:
    return f'<div class="k-card k-{kind}" role="status" aria-live="polite">{content}</div>'


def _number(value: float | None, unit: str, digits: int) -> str:
    if value is None:
        return "–"
    if unit == " s" and value >= _LONG_S:
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes}:{seconds:02} min"
    return f"{value:.{digits}f}{unit}"
