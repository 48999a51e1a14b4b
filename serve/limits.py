"""What a request may cost: a place, bytes, time; and nothing more once its client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.call import Call
from serve.errors import NotReady, QueueFull, UploadStalled, UploadTooLarge
from serve.gate import Gate
from serve.ledger import Ledger
from serve.metrics import Metrics
from serve.problems import Problem, problem
from serve.settings import Settings


class Admission:
    """ASGI middleware around the routes that cost work.

    It refuses before the body is read, counts the body's bytes as they arrive, cancels the request when its client
    goes away, and has the ledger closed however the request ended.  The route finds its `Call` in
    `request.state.call`.  Of other routes, such as the page's, it only bounds the body.
    """

    def __init__(
        self, app: ASGIApp, gate: Gate, metrics: Metrics, ledger: Ledger, paths: frozenset[str], settings: Settings
    ) -> None:
        self._app = app
        self._gate = gate
        self._metrics = metrics
        self._ledger = ledger
        self._paths = paths
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "POST" and scope["path"] in self._paths:
            await self._admit(scope, receive, send)
        elif (refusal := self._refusal_of_body(Headers(scope=scope))) is not None:
            await refusal.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})
        call = state["call"] = Call(
            endpoint=scope["path"],
            request_id=state.get("request_id", ""),
            timeout_s=self._settings.timeout_s,
            max_s=self._settings.max_request_s,
            traceparent=Headers(scope=scope).get("traceparent", ""),
        )
        try:
            with ExitStack() as place:
                place.enter_context(self._gate.slot())
                await self._run(call, place.close, scope, receive, send)
        except (NotReady, QueueFull) as error:
            refusal = problem(error)
            self._metrics.reject(str(refusal.code))
            await _refuse(refusal, call, scope, receive, send)
        except asyncio.CancelledError:
            call.outcome = "cancelled"
            raise
        except Exception:
            call.outcome = "error"
            raise
        finally:
            self._ledger.close(call)

    async def _run(self, call: Call, leave: Callable[[], None], scope: Scope, receive: Receive, send: Send) -> None:
        if self._announces_too_much(Headers(scope=scope)):
            await _refuse(problem(_too_large(self._settings.max_upload_bytes)), call, scope, receive, send)
            return

        body = _Body(receive, self._settings.max_upload_bytes, self._settings.idle_s)
        answered = False

        async def noting_send(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start" and message["status"] >= 400:
                call.outcome = Problem(message["status"], "", "").outcome
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            if answered:
                leave()  # whoever has all of his answer may ask again before this task has come to its end
            await send(message)
            await asyncio.sleep(0)  # to a client that has gone everything is sent at once: let the news of it through

        work = asyncio.ensure_future(self._app(scope, body.receive, noting_send))
        gone = asyncio.create_task(body.disconnected())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            # A server also reports the end of a complete answer as a disconnect.
            if work.done() or answered:
                await work
        finally:
            gone.cancel()
            if not work.done():
                call.outcome = "cancelled"
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)  # nobody is left to tell

    def _refusal_of_body(self, headers: Headers) -> Problem | None:
        """Of a body that some other route would read to its end, however long it is."""
        if "transfer-encoding" in headers:
            return problem(HTTPException(411, "the body must say its length (Content-Length)"))
        if self._announces_too_much(headers):
            return problem(_too_large(self._settings.max_upload_bytes))
        return None

    def _announces_too_much(self, headers: Headers) -> bool:
        announced = headers.get("content-length", "")
        return announced.isdecimal() and int(announced) > self._settings.max_upload_bytes


class _Body:
    """A request's body with a bound, a pace, and the news that its client has gone."""

    def __init__(self, receive: Receive, max_bytes: int, idle_s: float) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._idle_s = idle_s
        self._n_bytes = 0
        self._ended = asyncio.Event()  # nothing more will come
        self._gone = False

    async def receive(self) -> Message:
        """The application's `receive`; it never tells of a disconnect, because `Admission` cancels the application.

        Raises:
            UploadTooLarge: as soon as the bytes that arrived exceed the bound.
            UploadStalled: no byte came for too long.
        """
        if not self._ended.is_set():
            message = await self._next()
            if message["type"] != "http.disconnect":
                self._n_bytes += len(message.get("body", b""))
                if self._n_bytes > self._max_bytes:
                    raise _too_large(self._max_bytes)
                if not message.get("more_body", False):
                    self._ended.set()
                return message
            self._gone = True
            self._ended.set()
        return await asyncio.Future()

    async def disconnected(self) -> None:
        """Returns when the client has gone; listens on its own only once the body has ended."""
        await self._ended.wait()
        while not self._gone:
            self._gone = (await self._receive())["type"] == "http.disconnect"

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout(self._idle_s):
                return await self._receive()
        except TimeoutError:
            raise UploadStalled(f"no byte of the upload came for {self._idle_s:g} s") from None


def _too_large(max_bytes: int) -> UploadTooLarge:
    return UploadTooLarge(f"the upload is larger than the limit of {max_bytes:,} bytes")


async def _refuse(refusal: Problem, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
    call.outcome = refusal.outcome
    await refusal.response()(scope, receive, send)
