"""Subtitle files: SubRip, as the players read it, and WebVTT, as the W3C specifies it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Cue:
    """A text, and when it is shown, in seconds of the recording."""

    start_s: float
    end_s: float
    text: str


def srt(cues: Iterable[Cue]) -> str:
    """A SubRip file."""
    return "".join(f"{n}\n{_times(cue, ',')}\n{_line(cue.text)}\n\n" for n, cue in enumerate(cues, 1))


def vtt(cues: Iterable[Cue]) -> str:
    """A WebVTT file."""
    return "WEBVTT\n\n" + "".join(f"{_times(cue, '.')}\n{escape(_line(cue.text), quote=False)}\n\n" for cue in cues)


def _line(text: str) -> str:
    """The text without line breaks, because an empty line ends a cue."""
    return " ".join(text.split())


def _times(cue: Cue, decimal_mark: str) -> str:
    return " --> ".join(_time(seconds, decimal_mark) for seconds in (cue.start_s, cue.end_s))


def _time(seconds: float, decimal_mark: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds_, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{seconds_:02}{decimal_mark}{milliseconds:03}"
