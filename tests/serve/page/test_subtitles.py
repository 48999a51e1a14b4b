from __future__ import annotations

import re
from base64 import b64decode

from serve.captions import Cue
from serve.page.subtitles import downloads


def test_links_carry_their_files() -> None:
    html = downloads([Cue(0.5, 2.0, "Grüße & Küsse"), Cue(61.25, 62.0, "你好")], 'my "talk".de')
    files = dict(re.findall(r'download="([^"]*)" href="data:[^,]*;base64,([^"]*)"', html))
    assert set(files) == {"my &quot;talk&quot;.de.srt", "my &quot;talk&quot;.de.vtt"}
    srt, vtt = (b64decode(content).decode() for content in files.values())
    assert srt.startswith("1\n00:00:00,500 --> 00:00:02,000\nGrüße & Küsse\n\n2\n00:01:01,250")
    assert vtt.startswith("WEBVTT\n\n00:00:00.500 --> 00:00:02.000\nGrüße &amp; Küsse\n")


def test_silence_has_no_subtitles() -> None:
    assert not downloads([], "silence")
