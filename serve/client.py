"""A small client of the HTTP API and of its live socket; the page is one of its users."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Final
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from serve.captions import Cue

_GRACE_S: Final = 5.0  # the server gives up first, and says so
_PIECE_BYTES: Final = 96_000  # 2 s of live sound; the server takes no messages of any length


class ApiError(Exception):
    """The server's answer to a request it did not fulfil: HTTP status (0: no answer) and message.

    `retry_after_s` is set if it is only busy: after so many seconds it may be asked again.
    """

    def __init__(self, status: int, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def wait_s(self) -> int:
        """Whole seconds to wait until it may be asked again; 0 if there is nothing to wait for."""
        return 0 if self.retry_after_s is None else max(1, math.ceil(self.retry_after_s))


@dataclass(frozen=True)
class Ended:
    """The end of a stream: the whole text, its parts with their places in the recording, the server's timings in s."""

    text: str
    cues: tuple[Cue, ...]
    timings: dict[str, float | None]


class Client:
    """Talks to one server.

    `key` is sent if the server asks for one; `transport` replaces the network in tests.
    """

    def __init__(
        self,
        base_url: str,
        timeout_s: float = 120.0,
        transport: httpx.AsyncBaseTransport | None = None,
        key: str = "",
    ) -> None:
        self._base_url = base_url
        self._timeout_s = timeout_s + _GRACE_S
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._transport = transport

    async def models(self) -> list[dict[str, Any]]:
        """The loaded models, as `GET /v1/models` describes them.

        Raises:
            ApiError: the server cannot be reached, or refuses.
        """
        async with self._connect() as http:
            try:
                response = await http.get("/v1/models")
            except httpx.HTTPError as error:
                raise _unreachable(error) from error
            await _raise_for(response)
            return list(response.json()["data"])

    async def translate(
        self, audio: bytes | BinaryIO, model: str, to_language: str
    ) -> AsyncGenerator[str | Ended, None]:
        """Streams a translation: pieces of text, then one `Ended`.  Closing the generator cancels the request.

        Raises:
            ApiError: the server cannot be reached, refuses, or breaks off.
        """
        form = {"model": model, "to_language": to_language, "stream": "true"}
        async with self._connect() as http:
            try:
                async with http.stream(
                    "POST", "/v1/audio/translations", data=form, files={"file": ("audio", audio)}
                ) as response:
                    await _raise_for(response)
                    async for line in response.aiter_lines():
                        if (event := _event(line)) is not None:
                            yield event
            except httpx.HTTPError as error:
                raise _unreachable(error) from error

    async def live(self, model: str, to_language: str, policy: str) -> Live:
        """Begins a live session.

        Raises:
            ApiError: the server cannot be reached, or refuses.
        """
        query = urlencode({"model": model, "policy": policy})
        address = f"{self._base_url.replace('http', 'ws', 1)}/v1/realtime/translations?{query}"
        try:
            socket = await connect(
                address,
                additional_headers=self._headers,
                compression=None,
                open_timeout=self._timeout_s,
                proxy=None,  # see `_connect`
            )
        except InvalidStatus as error:
            refusal = error.response
            raise _refusal(refusal.status_code, refusal.reason_phrase, refusal.headers, refusal.body) from error
        except (InvalidHandshake, OSError) as error:
            raise _unreachable(error) from error
        live = Live(socket)
        await live.translate_into(to_language)
        return live

    def _connect(self) -> httpx.AsyncClient:
        # A proxy from the environment has no business between the page and its own server.
        return httpx.AsyncClient(
            base_url=self._base_url,
            timeout=self._timeout_s,
            transport=self._transport,
            headers=self._headers,
            trust_env=False,
        )


class Live:
    """A live session: speech goes in while text comes out.

    What is sent after the connection has broken off is lost without an error; `hear` tells of it.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def translate_into(self, to_language: str) -> None:
        """Changes the target language of what is spoken from here on."""
        await self._send("session.update", session={"audio": {"output": {"language": to_language}}})

    async def speak(self, pcm: bytes) -> None:
        """Sends speech: PCM16, mono, 24 kHz.  Waits while the server has more of it than it wants."""
        for at in range(0, len(pcm), _PIECE_BYTES):
            piece = base64.b64encode(pcm[at : at + _PIECE_BYTES]).decode()
            await self._send("session.input_audio_buffer.append", audio=piece)

    async def finish(self) -> None:
        """Ends the speech; the rest of its text still comes."""
        await self._send("session.close")

    async def hear(self) -> AsyncGenerator[str | ApiError, None]:
        """Text as it comes, to be appended as it is, and errors that the session survives; ends with the session.

        Raises:
            ApiError: the connection broke off.
        """
        try:
            async for message in self._socket:
                event = json.loads(message)
                if event["type"] == "session.output_transcript.delta":
                    yield str(event["delta"])
                elif event["type"] == "error":
                    yield ApiError(200, event["error"]["message"])
                elif event["type"] == "session.closed":
                    return
        except ConnectionClosed:
            pass
        raise ApiError(0, "the connection to the server broke off")

    async def close(self) -> None:
        """Hangs up; a session that has not ended is cancelled."""
        await self._socket.close()

    async def _send(self, kind: str, **content: Any) -> None:
        with suppress(ConnectionClosed):  # `hear` is told
            await self._socket.send(json.dumps({"type": kind, **content}))


def _event(line: str) -> str | Ended | None:
    """One line of a stream of server-sent events; None for those that carry nothing."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return None
    event = json.loads(line.removeprefix("data: "))
    if event["type"] == "transcript.text.delta":
        return str(event["delta"])
    if event["type"] == "error":
        raise ApiError(200, event["error"]["message"])
    cues = tuple(Cue(each["start"], each["end"], each["text"]) for each in event["segments"])
    return Ended(event["text"], cues, event["timings"])


async def _raise_for(response: httpx.Response) -> None:
    if not response.is_success:
        body = await response.aread()
        raise _refusal(response.status_code, response.reason_phrase, response.headers, body)


def _refusal(status: int, reason: str, headers: Mapping[str, str], body: bytes | bytearray) -> ApiError:
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {status} {reason}"
    return ApiError(status, message, _retry_after_s(headers))


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` and its finer relative say; a date, which this server never sends, counts as nothing."""
    for name, seconds in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            after_s = float(headers.get(name, "")) * seconds
        except ValueError:
            continue
        if math.isfinite(after_s):
            return max(0.0, after_s)
    return None


def _unreachable(error: Exception) -> ApiError:
    return ApiError(0, f"the server does not answer ({type(error).__name__})")
