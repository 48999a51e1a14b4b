"""Subtitles as ffmpeg and a browser read them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

import av
import pytest
from playwright.sync_api import sync_playwright

from serve.captions import Cue, srt, vtt

NASTY = "Tom & <i>Jerry</i> --> x < y\n\n2\n00:00:01,000 --> 00:00:02,000\r\nfalsch"
CUES = [Cue(0.0, 1.2345, "Guten Tag."), Cue(59.9996, 61, NASTY), Cue(3725.5, 3727.04, "在这里。")]
BOUNDS = [(0, 1.234), (60, 61), (3725.5, 3727.04)]
# a browser's own parser, as a page meets it
READ_TRACK = """async () => {
    const track = document.querySelector("track");
    track.track.mode = "hidden";
    await new Promise((loaded, failed) => { track.onload = loaded; track.onerror = failed; });
    return [...track.track.cues].map((cue) => [cue.startTime, cue.endTime, cue.getCueAsHTML().textContent]);
}"""


@pytest.mark.parametrize(("write", "demuxer"), [(srt, "srt"), (vtt, "webvtt")])
def test_ffmpeg_finds_the_cues(write: Callable[[Iterable[Cue]], str], demuxer: str) -> None:
    with av.open(io.BytesIO(write(CUES).encode()), "r", format=demuxer) as container:
        packets = [packet for packet in container.demux() if packet.size]
    found = []
    for packet in packets:
        assert packet.pts is not None
        assert packet.duration is not None
        times = (float(packet.pts * packet.time_base), float((packet.pts + packet.duration) * packet.time_base))
        found.append((times, bytes(packet).decode()))
    assert [times for times, _ in found] == BOUNDS
    assert [text for _, text in found][::2] == [CUES[0].text, CUES[2].text]


@pytest.mark.browser
def test_a_browser_accepts_the_vtt() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.route("**/*.vtt", lambda route: route.fulfill(body=vtt(CUES), content_type="text/vtt; charset=utf-8"))
        html = '<!doctype html><video><track src="/a.vtt"></video>'
        page.route("http://page.test/", lambda route: route.fulfill(body=html, content_type="text/html"))
        page.goto("http://page.test/")
        cues = page.evaluate(READ_TRACK)
        browser.close()
    assert [(start, end) for start, end, _ in cues] == BOUNDS
    assert [text for *_, text in cues] == ["Guten Tag.", " ".join(NASTY.split()), "在这里。"]


def test_hours_are_written_out() -> None:
    assert "\n01:02:05,500 --> 01:02:07,040\n" in srt(CUES)
    assert "\n01:02:05.500 --> 01:02:07.040\n" in vtt(CUES)


def test_no_cues_are_a_file_all_the_same() -> None:
    assert srt([]) == ""
    assert vtt([]).startswith("WEBVTT\n")
