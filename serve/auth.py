"""Who may use the server: optional keys, asked for on every route but the probes.

Programs send `Authorization: Bearer KEY`.  What a person opens in a browser (the page, its files and its calls) takes
HTTP's Basic scheme as well, any user name and a key as password: the browser asks for it by itself.  The API does not
take it, or other sites could use a reader's browser to call it.  A live socket takes either, and the sub-protocol
`openai-insecure-api-key.KEY`, because scripts in a browser can set no header there.

The probes are open because an orchestrator has no key to send.  `/metrics` is not: it tells which models are loaded
and how much they are used, and Prometheus can send a key (`authorization` in its scrape configuration).
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterable, Iterator
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import Unauthorised
from serve.metrics import Metrics
from serve.problems import problem

OPEN: Final = frozenset({"/livez", "/readyz", "/health"})
_MIN_LENGTH: Final = 16  # characters; a shorter key can be guessed
_FOR_PROGRAMS: Final = ("/v1/", "/metrics")
_PROTOCOL: Final = "openai-insecure-api-key."  # how OpenAI's realtime clients in browsers send a key


def read_keys(given: Iterable[str], file: Path | None) -> frozenset[str]:
    """Keys as an operator gives them, directly and in a file: one a line, `#` begins a comment.

    Raises:
        ValueError: a key can be guessed or cannot be sent, or the file cannot be read or holds none.
    """
    keys = list(given)
    if file is not None:
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except OSError as error:
            raise ValueError(f"{file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not a file of keys: it is not text") from error
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise ValueError(f"{file} holds no key; leave it out to ask nobody for one")
        keys += found
    for number, key in enumerate(keys, 1):
        if len(key) < _MIN_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(f"key {number} is not {_MIN_LENGTH} or more ASCII characters without spaces")
    return frozenset(keys)


class Keys:
    """The keys that are valid."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def accept(self, key: str) -> bool:
        """Whether a key is one of them; how long the answer takes tells nothing of them."""
        digest = _digest(key)
        return any([compare_digest(digest, known) for known in self._digests])  # noqa: C419 - all are compared


class Auth:
    """ASGI middleware that lets requests and live sockets with a valid key through."""

    def __init__(self, app: ASGIApp, keys: Keys, metrics: Metrics) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN):
            await self._app(scope, receive, send)
            return
        given = list(_given(scope))
        if any(self._keys.accept(key) for key in given):
            await self._app(scope, receive, send)
            return
        self._metrics.reject("unauthorised")
        message = "the key is not valid" if given else "this server asks for a key: send `Authorization: Bearer KEY`"
        await problem(Unauthorised(_challenge(scope), message, given=bool(given))).response()(scope, receive, send)


def _given(scope: Scope) -> Iterator[str]:
    """The keys that came along, by the schemes that this route takes."""
    headers = Headers(scope=scope)
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield credentials.strip()
    elif scheme.lower() == "basic" and (scope["type"] == "websocket" or not _is_for_programs(scope)):
        yield _password(credentials)
    if scope["type"] == "websocket":
        protocols = (name.strip() for name in headers.get("sec-websocket-protocol", "").split(","))
        yield from (name.removeprefix(_PROTOCOL) for name in protocols if name.startswith(_PROTOCOL))


def _password(credentials: str) -> str:
    try:
        return b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _challenge(scope: Scope) -> str:
    return 'Bearer realm="Kompakt"' if _is_for_programs(scope) else 'Basic realm="Kompakt", charset="UTF-8"'


def _is_for_programs(scope: Scope) -> bool:
    return str(scope["path"]).startswith(_FOR_PROGRAMS)


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()
