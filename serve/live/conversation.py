"""One live session over one socket: hears its client, has speech translated, and sends the text."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import aclosing, suppress
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from compress.audio import SAMPLE_RATE, Samples
from compress.errors import KompaktError
from serve import engine
from serve.call import Call
from serve.errors import InvalidField
from serve.live import events
from serve.live.pcm import PcmStream, decode_pcm
from serve.live.session import Question, Session
from serve.problems import Problem, problem
from serve.routes import Service

logger = logging.getLogger(__name__)

_PROTOCOL: Final = "realtime"  # the sub-protocol that OpenAI's clients in browsers ask for
_MAX_WAITING_S: Final = 60.0  # speech that waits for the engine; until it is less, the client is not read
_MAX_MISTAKES: Final = 100
_LOOK_S: Final = 0.2  # how often limits of time are looked at

# close codes (RFC 6455)
_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_POLICY: Final = 1008
_INTERNAL: Final = 1011


class Conversation:
    """A session from its first event to its last.

    Three tasks share it: one listens, one has translated what was heard, one watches the clock.  The core is worked
    on by one of them at a time, by whoever holds `_turn`.
    """

    def __init__(self, websocket: WebSocket, service: Service, call: Call, session: Session) -> None:
        """Prepares the session.

        Args:
            websocket: about to be accepted.
            service: what all sessions work with.
            call: the session's record; it names the model.
            session: the core, new.
        """
        self._websocket = websocket
        self._service = service
        self._call = call
        self._session = session
        self._pcm = PcmStream()
        self._turn = asyncio.Condition()
        self._last_audio = call.received
        self._expires_at = int(time.time() + service.settings.max_session_s)
        self._full = False  # listening waits for the engine
        self._n_mistakes = 0
        self._close_code = 0  # not 0 once no more audio is taken

    async def run(self) -> None:
        """Serves the session; returns when the socket is closed or its client has gone."""
        try:
            await self._accept()
            await self._send(events.created(self._describe()))
            async with asyncio.TaskGroup() as tasks:
                others = [tasks.create_task(self._listen()), tasks.create_task(self._watch())]
                await self._translate()
                for task in others:
                    task.cancel()
            await self._send(events.closed())
            await self._websocket.close(self._close_code)
        except* WebSocketDisconnect:
            self._call.outcome = "cancelled"
        except* Exception as group:
            self._call.outcome = "error"
            logger.exception("a live session broke off")
            with suppress(WebSocketDisconnect):
                await self._send(events.trouble(problem(group.exceptions[0])))
                await self._websocket.close(_INTERNAL)

    async def _accept(self) -> None:
        asked = self._websocket.scope["subprotocols"]
        try:
            await self._websocket.accept(_PROTOCOL if _PROTOCOL in asked else None)
        except OSError:  # starlette takes care of it for later messages only
            raise WebSocketDisconnect(1006) from None

    async def _listen(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1006))
            text = message.get("text")
            try:
                if text is None:
                    raise InvalidField("type", "send JSON in text frames, not in binary ones")
                await self._obey(events.parse(text))
            except InvalidField as error:
                await self._forgive(error, events.event_id(text or ""))

    async def _obey(self, event: events.ClientEvent) -> None:
        """Does what an event asks for.

        Raises:
            InvalidField: it cannot be done.
        """
        if self._close_code:
            raise InvalidField("type", f"the session is being closed and takes no {event.type} any more")
        match event:
            case events.Append():
                await self._hear(decode_pcm(event.audio))
            case events.Update():
                self._session.to_language = event.language or self._session.to_language
                self._call.to_language = self._session.to_language
                await self._send(events.updated(self._describe()))
            case events.Close():
                await self._finish(_NORMAL)

    async def _forgive(self, error: InvalidField, event_id: str | None) -> None:
        """Tells a client of its mistake; nobody makes too many."""
        await self._send(events.trouble(problem(error), event_id))
        self._n_mistakes += 1
        if self._n_mistakes >= _MAX_MISTAKES:
            self._call.outcome = "client_error"
            await self._finish(_POLICY)

    async def _hear(self, pcm: bytes) -> None:
        """Takes audio; waits while more speech waits for the engine than the server wants to hold."""
        async with self._turn:
            if self._close_code:  # the time was over meanwhile
                return
            await self._feed(self._pcm.feed(pcm))
            self._turn.notify_all()
            self._full = True
            await self._turn.wait_for(lambda: self._session.waiting_s < _MAX_WAITING_S)
            self._full = False
        if pcm:
            self._last_audio = self._now()

    async def _finish(self, close_code: int) -> None:
        """Ends the audio; what was spoken is still translated and sent, then the socket is closed."""
        if self._close_code:
            return
        self._close_code = close_code
        async with self._turn:
            await self._feed(self._pcm.finish())
            await asyncio.to_thread(self._session.finish)
            self._turn.notify_all()

    async def _feed(self, samples: Samples) -> None:
        await asyncio.to_thread(self._session.feed, samples)
        self._call.audio_s = self._session.heard_s
        self._service.metrics.hear(len(samples) / SAMPLE_RATE)

    async def _translate(self) -> None:
        """Answers the session's questions until it is done."""
        while True:
            async with self._turn:
                while (question := self._session.step()) is None and not self._session.done:
                    await self._turn.wait()
                self._turn.notify_all()  # there is room for more speech
            if question is None:
                return
            await self._answer(question)

    async def _answer(self, question: Question) -> None:
        request = engine.Request(self._call.model, question.samples, question.to_language)
        try:
            async with asyncio.timeout(self._service.settings.timeout_s):
                async with aclosing(self._service.engine.translate(request)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, engine.Result):
                            await self._say(self._session.conclude(), question)
                            self._note(question, piece)
                            return
                        await self._say(self._session.hear(piece), question)
                        if self._session.overtaken:
                            return
        except (KompaktError, TimeoutError) as error:
            self._call.outcome = problem(error).outcome
            await self._send(events.trouble(problem(error)))

    def _note(self, question: Question, result: engine.Result) -> None:
        if question.ended:
            self._call.translated(result.timings)
            self._service.metrics.live_lag.observe(self._session.heard_s - question.heard_s)

    async def _watch(self) -> None:
        """Ends the session when its time is over, the server's, or the engine's."""
        settings = self._service.settings
        while not self._close_code:
            await asyncio.sleep(_LOOK_S)
            idle_s = 0.0 if self._full else self._now() - self._last_audio
            if self._service.gate.state == "draining":
                await self._finish(_GOING_AWAY)
            elif not self._service.engine.alive:
                self._call.outcome = "error"
                await self._finish(_INTERNAL)
            elif self._now() - self._call.received > settings.max_session_s:
                await self._end("session_expired", f"a session lasts {settings.max_session_s:g} s at most")
            elif idle_s > settings.idle_s:
                await self._end("session_idle", f"no audio came for {settings.idle_s:g} s; send silence in pauses")

    async def _end(self, code: str, message: str) -> None:
        self._call.outcome = "timeout"
        await self._send(events.trouble(Problem(408, "invalid_request_error", message, code=code)))
        await self._finish(_GOING_AWAY)

    async def _say(self, text: str, question: Question) -> None:
        if text:
            await self._send(events.transcript_delta(text, question.heard_s))

    async def _send(self, event: dict[str, Any]) -> None:
        """Sends an event.

        Raises:
            WebSocketDisconnect: the client has gone, or was cut off because it does not read.
        """
        try:
            await self._websocket.send_text(json.dumps(event, ensure_ascii=False))
        except RuntimeError:
            # uvicorn itself has closed the socket, after a message that was too long, and nobody has heard of it yet
            raise WebSocketDisconnect(1006) from None

    def _describe(self) -> dict[str, Any]:
        session_id = f"sess_{self._call.request_id.removeprefix('req_')}"
        return events.session_object(session_id, self._call.model, self._session.to_language, self._expires_at)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
