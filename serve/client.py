"""A small client of the HTTP API and of its live socket; the page is one of its users."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from itertools import count
from typing import Any, BinaryIO, Final
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from serve.answers import NOT_UNDERSTOOD, ApiError, Ended, Stream, raise_for, refusal, unreachable

__all__ = ["ApiError", "Client", "Ended", "Live"]

_GRACE_S: Final = 5.0  # the server gives up first, and says so
_CONNECT_S: Final = 5.0
_KEPT_S: Final = 2.0  # that a connection may be idle; servers close theirs after 5 s, and may do so under a request
_BROKE_OFF: Final = "the server broke off before the end"
_AGAIN_S: Final = 0.5  # before a lost request is sent again, and twice as long each time after
_PIECE_BYTES: Final = 96_000  # 2 s of live sound; the server takes no messages of any length


class Client:
    """Talks to one server.

    `key` is sent if the server asks for one; `transport` replaces the network in tests.  `attempts` is how often a
    recording is sent at most if the answer gets lost before its first piece of text, as happens behind a proxy of
    several servers when one of them dies.
    """

    def __init__(
        self,
        base_url: str,
        timeout_s: float = 120.0,
        transport: httpx.AsyncBaseTransport | None = None,
        key: str = "",
        attempts: int = 1,
    ) -> None:
        self._base_url = base_url
        self._timeout_s = timeout_s + _GRACE_S
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._transport = transport
        self._attempts = attempts
        self._kept: httpx.AsyncClient | None = None

    def keep_connections(self, n_most: int) -> None:
        """Has later calls, all on one event loop, share so many connections at most; without, each makes its own."""
        self._kept = self._http(httpx.Limits(max_connections=n_most, keepalive_expiry=_KEPT_S))

    async def close(self) -> None:
        """Ends the connections that were kept, and the calls that use them."""
        if self._kept is not None:
            await self._kept.aclose()

    async def check_ready(self) -> None:
        """Returns if the server takes work.

        Raises:
            ApiError: the server cannot be reached, or is not ready.
        """
        await self._get("/health")

    async def models(self) -> list[dict[str, Any]]:
        """The loaded models, as `GET /v1/models` describes them.

        Raises:
            ApiError: the server cannot be reached, or refuses.
        """
        response = await self._get("/v1/models")
        try:
            return list(response.json()["data"])
        except (ValueError, LookupError, TypeError) as error:
            raise ApiError(0, NOT_UNDERSTOOD) from error

    async def translate(
        self,
        audio: bytes | BinaryIO,
        model: str,
        to_language: str,
        max_new_tokens: int | None = None,
        request_id: str = "",
    ) -> AsyncGenerator[str | Ended, None]:
        """Streams a translation: pieces of text, then one `Ended`.  Closing the generator cancels the request.

        Args:
            audio: a file, or what is in it.
            model: one of the server's.
            to_language: code of the target language.
            max_new_tokens: cut the text of each stretch of speech here; None leaves it to the server.
            request_id: under which the server logs it; it makes one up if there is none.

        Raises:
            ApiError: the server cannot be reached, refuses, or breaks off.
        """
        told: asyncio.Queue[str | Ended | Exception | None] = asyncio.Queue()
        asking = asyncio.create_task(_tell(self._insist(audio, model, to_language, max_new_tokens, request_id), told))
        ended = False
        try:
            while (event := await told.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                ended = isinstance(event, Ended)
                yield event
        finally:
            try:
                if ended:  # what is left is to give the connection back; cancelled in the midst of it, httpx never does
                    await asyncio.wait([asking], timeout=_GRACE_S)
            finally:
                # A caller may be cancelled again and again until it has ended, and httpx then forgets to hang up: here
                # only the waiting is.
                asking.cancel()
                await asyncio.wait([asking])

    async def _insist(self, audio: bytes | BinaryIO, *rest: Any) -> AsyncGenerator[str | Ended, None]:
        """Asks, and asks again what got lost before any text came."""
        for attempt in count(1):
            told = False
            try:
                async with aclosing(self._ask(audio, *rest)) as events:
                    async for event in events:
                        told = True
                        yield event
                return
            except ApiError as error:
                if told or not error.lost or attempt >= self._attempts:
                    raise
            await asyncio.sleep(_AGAIN_S * 2 ** (attempt - 1))

    async def _ask(
        self, audio: bytes | BinaryIO, model: str, to_language: str, max_new_tokens: int | None, request_id: str
    ) -> AsyncGenerator[str | Ended, None]:
        # The last field is for vLLM's server, which tells token counts only then.
        form = {"model": model, "to_language": to_language, "stream": "true", "stream_include_usage": "true"}
        if max_new_tokens is not None:
            form["max_completion_tokens"] = str(max_new_tokens)
        headers = {"X-Request-Id": request_id} if request_id else {}
        stream = Stream()
        async with self._connect() as http:
            try:
                async with http.stream(
                    "POST", "/v1/audio/translations", data=form, files={"file": ("audio", audio)}, headers=headers
                ) as response:
                    await raise_for(response)
                    async for line in response.aiter_lines():
                        if (event := stream.read(line)) is not None:
                            yield event
            except (httpx.ReadError, httpx.RemoteProtocolError) as error:
                raise ApiError(0, _BROKE_OFF) from error
            except httpx.HTTPError as error:
                raise unreachable(error) from error
        if not stream.ended:
            raise ApiError(0, _BROKE_OFF)

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
                proxy=None,  # see `_http`
            )
        except InvalidStatus as error:
            answer = error.response
            raise refusal(answer.status_code, answer.reason_phrase, answer.headers, answer.body) from error
        except (InvalidHandshake, OSError) as error:
            raise unreachable(error) from error
        live = Live(socket)
        await live.translate_into(to_language)
        return live

    async def _get(self, path: str) -> httpx.Response:
        async with self._connect() as http:
            try:
                response = await http.get(path)
            except httpx.HTTPError as error:
                raise unreachable(error) from error
            await raise_for(response)
            return response

    def _connect(self) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        return self._http() if self._kept is None else nullcontext(self._kept)

    def _http(self, limits: httpx.Limits | None = None) -> httpx.AsyncClient:
        # A proxy from the environment has no business between the page and its own server.
        return httpx.AsyncClient(
            base_url=self._base_url,
            timeout=httpx.Timeout(self._timeout_s, connect=_CONNECT_S),
            limits=limits or httpx.Limits(),
            transport=self._transport,
            headers=self._headers,
            trust_env=False,
        )


async def _tell(events: AsyncGenerator[str | Ended, None], told: asyncio.Queue[str | Ended | Exception | None]) -> None:
    """Puts all events of a stream into a queue, then what ended it: an error, or None."""
    try:
        async with aclosing(events):
            async for event in events:
                told.put_nowait(event)
        told.put_nowait(None)
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the one who asked
        told.put_nowait(error)


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
