"""Clients of a server: most want a text, some behave badly in the ways that clients do."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import httpx

from benchmarks.traffic.callers import PATH

MAX_UPLOAD_BYTES: Final = 1_000_000  # of the server
IDLE_S: Final = 3.0  # of the server
_PATIENCE_S: Final = 300.0
_REFUSED: Final = 429


@dataclass(frozen=True)
class Wish:
    """A recording, into which language it is to be translated, and the text that should come."""

    audio: bytes
    to_language: str
    text: str = ""


@dataclass
class Tally:
    """What became of the requests.

    Attributes:
        answered: those that got the text they should.
        wrong: those that got another.
        lost: those that got none; their errors are in `troubles`.
        refusals_s: how long each refusal took, in seconds.
        misbehaved: answers to bad behaviour, by behaviour and HTTP status; 0 where none was waited for.
        unexpected: such answers that should have been others.
    """

    answered: int = 0
    wrong: int = 0
    lost: int = 0
    refusals_s: list[float] = field(default_factory=list)
    misbehaved: Counter[str] = field(default_factory=Counter)
    unexpected: int = 0
    troubles: Counter[str] = field(default_factory=Counter)


class Crowd:
    """Requests to one server, drawn by a seed; `tally` says what became of them."""

    def __init__(self, url: str, model: str, seed: int) -> None:
        self.tally = Tally()
        self._url = url
        self._model = model
        self._draw = random.Random(seed)
        # A proxy from the environment has no business here.
        self._http = httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S, trust_env=False)
        # what a client may do wrong, and the answers that it may get
        self._misbehaviours: tuple[tuple[Callable[[Wish], Awaitable[int]], set[int]], ...] = (
            (self._leave, {0}),
            (self._hang_up, {0}),
            (self._send_junk, {400, 415, _REFUSED}),
            (self._send_too_much, {413, _REFUSED}),
            (self._stall, {408, _REFUSED}),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def ask(self, wish: Wish) -> str:
        """The text, after as many refusals as it takes; streamed or not."""
        stream = self._draw.random() < 0.5
        form = {"model": self._model, "to_language": wish.to_language, "stream": json.dumps(stream)}
        clock = asyncio.get_running_loop().time
        give_up = clock() + _PATIENCE_S
        while clock() < give_up:
            started = clock()
            response = await self._http.post(PATH, data=form, files={"file": ("a.flac", wish.audio)})
            if response.status_code == _REFUSED:
                self.tally.refusals_s.append(clock() - started)
                await asyncio.sleep(int(response.headers["retry-after-ms"]) / 1000)
                continue
            response.raise_for_status()
            if not stream:
                return str(response.json()["text"])
            *_, done, end = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
            return str(json.loads(done)["text"]) if end == "[DONE]" else ""
        raise TimeoutError("refused for too long")

    async def visit(self, wish: Wish) -> None:
        """A client that behaves well."""
        try:
            text = await self.ask(wish)
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError) as error:
            self.tally.lost += 1
            self.tally.troubles[f"{type(error).__name__}: {error}"] += 1
        else:
            right = text == wish.text
            self.tally.answered += right
            self.tally.wrong += not right

    async def misbehave(self, wish: Wish) -> None:
        """A client that does not."""
        behave, answers = self._draw.choice(self._misbehaviours)
        try:
            status = await behave(wish)
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            self.tally.troubles[f"{type(error).__name__}: {error}"] += 1
            status = -1
        self.tally.misbehaved[f"{behave.__name__.strip('_')} {status}"] += 1
        self.tally.unexpected += status not in answers

    async def _leave(self, wish: Wish) -> int:
        """Asks, and goes away at any moment."""
        await self._say(self._request(wish.audio), pause_s=self._draw.uniform(0, 1.5))
        return 0

    async def _hang_up(self, wish: Wish) -> int:
        """Goes away in the middle of a sentence."""
        request = self._request(wish.audio)
        await self._say(request[: self._draw.randrange(len(request))], pause_s=0)
        return 0

    async def _send_junk(self, wish: Wish) -> int:
        audio = self._draw.choice((self._draw.randbytes(20_000), wish.audio[:4], b"RIFF" + wish.audio))
        response = await self._http.post(PATH, data={"model": self._model}, files={"file": ("a.flac", audio)})
        return response.status_code

    async def _send_too_much(self, wish: Wish) -> int:
        """Whether it says so first, or just goes on."""
        if self._draw.random() < 0.5:
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_UPLOAD_BYTES + 1}\r\n\r\n"
            return await self._say(head.encode(), pause_s=None)
        audio = wish.audio * (MAX_UPLOAD_BYTES // len(wish.audio) + 1)
        response = await self._http.post(PATH, data={"model": self._model}, files={"file": ("a.flac", audio)})
        return response.status_code

    async def _stall(self, wish: Wish) -> int:
        """Sends half of it, and waits."""
        request = self._request(wish.audio)
        return await self._say(request[: len(request) // 2], pause_s=None)

    def _request(self, audio: bytes) -> bytes:
        form = {"model": self._model, "stream": "true"}
        request = httpx.Request("POST", self._url + PATH, data=form, files={"file": ("a.flac", audio)})
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        return f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + request.read()

    async def _say(self, words: bytes, pause_s: float | None) -> int:
        """Sends bytes on a connection of their own; the answer's status, or 0 after a pause without waiting for one."""
        address = urlsplit(self._url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(words)
            await writer.drain()
            if pause_s is None:
                async with asyncio.timeout(_PATIENCE_S):
                    return int((await reader.readline()).split()[1])
            await asyncio.sleep(pause_s)
            return 0
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
