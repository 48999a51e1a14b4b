"""A small client of the HTTP API; the page is one of its users."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import httpx


class ApiError(Exception):
    """The server's answer to a request it did not fulfil: HTTP status (0: no answer) and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Ended:
    """The end of a stream: the whole text and the server's timings, in seconds."""

    text: str
    timings: dict[str, float | None]


class Client:
    """Talks to one server.

    `transport` replaces the network in tests.
    """

    def __init__(
        self, base_url: str, timeout_s: float = 120.0, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._base_url = base_url
        self._timeout_s = timeout_s
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

    async def translate(self, audio: bytes, model: str, to_language: str) -> AsyncGenerator[str | Ended, None]:
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

    def _connect(self) -> httpx.AsyncClient:
        # A proxy from the environment has no business between the page and its own server.
        return httpx.AsyncClient(
            base_url=self._base_url, timeout=self._timeout_s, transport=self._transport, trust_env=False
        )


def _event(line: str) -> str | Ended | None:
    """One line of a stream of server-sent events; None for those that carry nothing."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return None
    event = json.loads(line.removeprefix("data: "))
    if event["type"] == "transcript.text.delta":
        return str(event["delta"])
    if event["type"] == "error":
        raise ApiError(200, event["error"]["message"])
    return Ended(event["text"], event["timings"])


async def _raise_for(response: httpx.Response) -> None:
    if response.is_success:
        return
    await response.aread()
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {response.status_code} {response.reason_phrase}"
    raise ApiError(response.status_code, message)


def _unreachable(error: httpx.HTTPError) -> ApiError:
    return ApiError(0, f"the server does not answer ({type(error).__name__})")
