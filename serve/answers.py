"""What a server answers, as its clients read it: refusals, and the events of a translation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from serve.captions import Cue

NOT_UNDERSTOOD: Final = "the server's answer cannot be understood"


class ApiError(Exception):
    """The server's answer to a request it did not fulfil: HTTP status (0: no answer) and message.

    `retry_after_s` is set if it is only busy: after so many seconds it may be asked again.  `bare` is an answer without
    an error of a server's own in it: a proxy gave it.
    """

    def __init__(self, status: int, message: str, retry_after_s: float | None = None, *, bare: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.bare = bare

    @property
    def lost(self) -> bool:
        """No server has answered to the end; that says nothing against the request, which may be sent again."""
        # Ray's proxy says 500 when a server was lost that had the request
        return self.status in (0, 502) or (self.status == 500 and self.bare)

    @property
    def wait_s(self) -> int:
        """Whole seconds to wait until it may be asked again; 0 if there is nothing to wait for."""
        return 0 if self.retry_after_s is None else max(1, math.ceil(self.retry_after_s))


@dataclass(frozen=True)
class Ended:
    """The end of a stream: the whole text, its parts with their places in the recording, the server's timings in s.

    Token counts are 0 where the server does not tell them.
    """

    text: str
    cues: tuple[Cue, ...]
    timings: dict[str, float | None]
    n_input_tokens: int = 0
    n_output_tokens: int = 0


class Stream:
    """Reads the server-sent events of a translation: this server's, or vLLM's, which end without a summary.

    Attributes:
        ended: its end has been read.
    """

    def __init__(self) -> None:
        self.ended = False
        self._pieces: list[str] = []
        self._usage: dict[str, Any] = {}

    def read(self, line: str) -> str | Ended | None:
        """What a line says; None of those that carry nothing."""
        if self.ended or not line.startswith("data: "):
            return None
        try:
            event = self._event(line.removeprefix("data: "))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ApiError(0, NOT_UNDERSTOOD) from error
        self.ended = isinstance(event, Ended)
        return event

    def _event(self, data: str) -> str | Ended | None:
        if data == "[DONE]":
            return Ended("".join(self._pieces), (), {}, *_n_tokens(self._usage))
        event = json.loads(data)
        if "error" in event:
            raise ApiError(200, event["error"]["message"])
        if event.get("type") == "transcript.text.done":
            cues = tuple(Cue(each["start"], each["end"], each["text"]) for each in event["segments"])
            return Ended(event["text"], cues, event["timings"], *_n_tokens(event["usage"]))
        self._usage = event.get("usage") or self._usage
        piece = "".join(str(choice["delta"].get("content") or "") for choice in event["choices"])
        self._pieces.append(piece)
        return piece or None


def _n_tokens(usage: Mapping[str, int]) -> tuple[int, int]:
    return usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)


async def raise_for(response: httpx.Response) -> None:
    """Raises `ApiError` unless the server does what it was asked for."""
    if not response.is_success:
        body = await response.aread()
        raise refusal(response.status_code, response.reason_phrase, response.headers, body)


def refusal(status: int, reason: str, headers: Mapping[str, str], body: bytes | bytearray) -> ApiError:
    """The error of a call that was answered, but not fulfilled."""
    after_s = _retry_after_s(headers)
    try:
        return ApiError(status, str(json.loads(body)["error"]["message"]), after_s)
    except (ValueError, KeyError, TypeError):
        return ApiError(status, f"the server answered {status} {reason}", after_s, bare=True)


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


def unreachable(error: Exception) -> ApiError:
    """The error of a call that got no answer."""
    return ApiError(0, f"the server does not answer ({type(error).__name__})")
