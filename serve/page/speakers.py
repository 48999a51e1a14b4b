"""The live sessions of the page's readers, each with a socket of its own to this server's API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from secrets import token_urlsafe
from typing import Final, TypedDict

import av
import numpy as np

from serve.client import ApiError, Live
from serve.live.pcm import RATE
from serve.page.cards import sentence

_NEWS_S: Final = 1.0  # how long a browser that says nothing waits for text
_SLOW_S: Final = 10.0  # how long it waits for a server that has more speech than it can translate


class Answer(TypedDict):
    """What a browser is told: new text, what went wrong, and whether it was the last of it."""

    text: str
    error: str
    over: bool


class Speaker:
    """One reader's session."""

    def __init__(self, live: Live, rate: int, gone_s: float) -> None:
        """Takes over a session that has begun.

        Args:
            live: the session.
            rate: of the microphone, in Hz.
            gone_s: a browser that has not been heard of for so long has gone.
        """
        self._live = live
        self._gone_s = gone_s
        self._rate = rate
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        self._finished = False
        self._text = ""
        self._error = ""
        self._over = False
        self._news = asyncio.Event()
        self._told_all = asyncio.Event()
        self._last_words = _now()

    async def attend(self) -> None:
        """Listens to the session; returns once the browser has been told the last of it, or has gone."""
        listening = asyncio.create_task(self._listen())
        try:
            while (left_s := self._last_words + self._gone_s - _now()) > 0 and not self._told_all.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._told_all.wait(), left_s)
        finally:
            listening.cancel()
            await self._live.close()

    async def converse(self, pcm: bytes, *, end: bool) -> Answer:
        """Sends what the microphone heard (PCM16, mono); returns the text that has come meanwhile.

        Args:
            pcm: may be empty; then the answer waits a little for text.
            end: nothing more will be said.
        """
        self._last_words = _now()
        try:
            async with asyncio.timeout(_SLOW_S):
                if pcm and not self._finished:
                    await self._speak(pcm)
                if end:
                    await self._finish()
        except TimeoutError:
            self._error, self._over = "The server cannot keep up with this speech.", True
        if not pcm:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _NEWS_S)
        self._news.clear()
        answer = Answer(text=self._text, error=self._error, over=self._over)
        self._text = self._error = ""
        if self._over:
            self._told_all.set()
        return answer

    async def translate_into(self, to_language: str) -> None:
        """Changes the target language of what is said from here on."""
        await self._live.translate_into(to_language)

    async def _speak(self, pcm: bytes) -> None:
        frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2")[None], format="s16", layout="mono")
        frame.sample_rate = self._rate
        await self._send(self._resampler.resample(frame))

    async def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            await self._send(self._resampler.resample(None))
            await self._live.finish()

    async def _send(self, frames: Iterable[av.AudioFrame]) -> None:
        if sound := b"".join(frame.to_ndarray().tobytes() for frame in frames):
            await self._live.speak(sound)

    async def _listen(self) -> None:
        try:
            async for event in self._live.hear():
                if isinstance(event, ApiError):
                    self._error = sentence(event)
                else:
                    self._text += event
                self._news.set()
        except ApiError as error:
            self._error = sentence(error)
        self._over = True
        self._news.set()


class Speakers:
    """All of them, each known by a token that its browser is given."""

    def __init__(self, gone_s: float = 10.0) -> None:
        """Nobody speaks yet; `gone_s` as for `Speaker`."""
        self._gone_s = gone_s
        self._speakers: dict[str, Speaker] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # or they could be collected while they run

    def admit(self, live: Live, rate: int) -> str:
        """Takes a session over; returns its token."""
        token = token_urlsafe()
        self._speakers[token] = speaker = Speaker(live, rate, self._gone_s)
        task = asyncio.create_task(self._attend(token, speaker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return token

    def find(self, token: str) -> Speaker | None:
        """The speaker of that token; None if its session is over."""
        return self._speakers.get(token)

    async def _attend(self, token: str, speaker: Speaker) -> None:
        try:
            await speaker.attend()
        finally:
            del self._speakers[token]


def _now() -> float:
    return asyncio.get_running_loop().time()
