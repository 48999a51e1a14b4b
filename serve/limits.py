"""What a request may cost: a place, bytes, time; and nothing more once its client has gone."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import NotReady, QueueFull, UploadTooLarge
from serve.gate import Gate
from serve.metrics import OTHER, Metrics
from serve.problems import Outcome, Problem, problem

logger = logging.getLogger(__name__)


@dataclass
class Call:
    """The record of one request: for its route to fill in, for the log and the metrics to read.

    `received` and `deadline` are in seconds of the event loop's clock.
    """

    received: float
    deadline: float
    model: str = OTHER
    to_language: str = OTHER
    audio_s: float | None = None
    outcome: Outcome = "ok"


class Admission:
    """ASGI middleware around the routes that cost work.

    It refuses before the body is read, counts the body's bytes as they arrive, cancels the request when its client
    goes away, and counts how each request ended.  The route finds its `Call` in `request.state.call`.
    """

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        metrics: Metrics,
        paths: frozenset[str],
        max_upload_bytes: int,
        timeout_s: float,
    ) -> None:
        self._app = app
        self._gate = gate
        self._metrics = metrics
        self._paths = paths
        self._max_upload_bytes = max_upload_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        now = asyncio.get_running_loop().time()
        call = Call(received=now, deadline=now + self._timeout_s)
        scope.setdefault("state", {})["call"] = call
        try:
            with self._gate.slot():
                await self._run(call, scope, _Body(receive, self._max_upload_bytes), send)
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
            self._metrics.count(scope["path"], call.to_language, call.model, call.outcome)
            seconds = asyncio.get_running_loop().time() - now
            audio = "no audio" if call.audio_s is None else f"{call.audio_s:.1f} s of audio"
            route = f"{call.model} to {call.to_language}"
            logger.info("%s %s: %s, %s, %.2f s", scope["state"].get("request_id"), call.outcome, route, audio, seconds)

    async def _run(self, call: Call, scope: Scope, body: _Body, send: Send) -> None:
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_upload_bytes:
            await _refuse(problem(body.too_large()), call, scope, body.receive, send)
            return

        answered = False

        async def noting_send(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start" and message["status"] >= 400:
                call.outcome = Problem(message["status"], "", "").outcome
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

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


class _Body:
    """A request's body with a bound, and the news that its client has gone."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._ended = asyncio.Event()  # nothing more will come
        self._gone = False

    def too_large(self) -> UploadTooLarge:
        return UploadTooLarge(f"the upload is larger than the limit of {self._max_bytes:,} bytes")

    async def receive(self) -> Message:
        """The application's `receive`; it never tells of a disconnect, because `Admission` cancels the application.

        Raises:
            UploadTooLarge: as soon as the bytes that arrived exceed the bound.
        """
        if not self._ended.is_set():
            message = await self._receive()
            if message["type"] != "http.disconnect":
                self._n_bytes += len(message.get("body", b""))
                if self._n_bytes > self._max_bytes:
                    raise self.too_large()
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


async def _refuse(refusal: Problem, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
    call.outcome = refusal.outcome
    await refusal.response()(scope, receive, send)
