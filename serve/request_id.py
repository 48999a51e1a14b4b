"""Every response names its request, and no exception leaves without an answer."""

from __future__ import annotations

import logging
import re
from secrets import token_hex
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import logs
from serve.problems import problem

logger = logging.getLogger(__name__)

HEADER: Final = "X-Request-Id"
_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
# what carries the headers of an answer: of a request, of a live socket, of the refusal of one
_STARTS: Final = ("http.response.start", "websocket.accept", "websocket.http.response.start")


class RequestId:
    """ASGI middleware: keeps a client's `X-Request-Id` if it is a plain word, makes one otherwise."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or live socket."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(HEADER, "")
        request_id = sent if _ACCEPTED.fullmatch(sent) else f"req_{token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] in _STARTS:
                started = True
                message.setdefault("headers", [])
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        token = logs.request_id.set(request_id)
        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            logger.exception("request %s failed", request_id)
            if started:
                raise  # the connection is cut, so that the client notices
            await problem(error).response()(scope, receive, send_with_id)
        finally:
            logs.request_id.reset(token)
