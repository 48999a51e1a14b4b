"""Subtitles to download: links that carry their files, so that the server keeps none."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from serve.captions import Cue, srt, vtt


def downloads(cues: Sequence[Cue], name: str) -> str:
    """Links to `name`.srt and `name`.vtt; nothing if nobody says anything."""
    if not cues:
        return ""
    files = (("srt", "application/x-subrip", srt(cues)), ("vtt", "text/vtt", vtt(cues)))
    links = " ".join(
        f'<a download="{escape(name)}.{kind}" href="data:{media};charset=utf-8;base64,{_encoded(content)}">.{kind}</a>'
        for kind, media, content in files
    )
    return f'<p class="k-links">Subtitles: {links}</p>'


def _encoded(content: str) -> str:
    return b64encode(content.encode()).decode()
