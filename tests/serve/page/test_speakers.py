"""What the page's server side does for a browser with a microphone, over a real socket to a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import soxr

from compress.audio import SAMPLE_RATE, decode
from serve.client import Client
from serve.page.speakers import Speaker, Speakers
from tests.serve.language import assert_german
from tests.serve.servers import Server, wait_until

RATE = 44_100  # of the microphone


def spoken(clip: Path) -> bytes:
    """A clip and a pause, as a browser hears them."""
    samples = soxr.resample(np.append(decode(clip), np.zeros(SAMPLE_RATE, np.float32)), SAMPLE_RATE, RATE)
    return bytes((samples * 32767).astype("<i2").tobytes())


async def rest(speaker: Speaker) -> str:
    """The text that still comes, to the end."""
    text = ""
    while not (answer := await speaker.converse(b"", end=True))["over"]:
        text += answer["text"]
    assert not answer["error"]
    return text + answer["text"]


def n_sessions(server: Server) -> float:
    return server.metric("st_ws_sessions_active")


def test_speech_goes_in_and_text_comes_out(loop: asyncio.Runner, server: Server, clips: list[Path]) -> None:
    async def scenario() -> str:
        speakers = Speakers()
        token = speakers.admit(await Client(server.url).live("pocket", "de", "segment"), RATE)
        speaker = speakers.find(token)
        assert speaker is not None
        text = ""
        for clip in clips[:2]:
            pcm = spoken(clip)
            for at in range(0, len(pcm), RATE // 2 * 2):
                text += (await speaker.converse(pcm[at : at + RATE // 2 * 2], end=False))["text"]
        text += await rest(speaker)
        await asyncio.to_thread(wait_until, lambda: speakers.find(token) is None)
        return text

    assert_german(loop.run(scenario()))
    wait_until(lambda: n_sessions(server) == 0)


def test_a_browser_that_is_not_heard_of_is_given_up(loop: asyncio.Runner, server: Server) -> None:
    async def scenario() -> None:
        speakers = Speakers(gone_s=0.2)
        token = speakers.admit(await Client(server.url).live("pocket", "de", "segment"), RATE)
        await asyncio.to_thread(wait_until, lambda: speakers.find(token) is None)

    loop.run(scenario())
    wait_until(lambda: n_sessions(server) == 0)
