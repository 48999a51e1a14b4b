"""`WS /v1/realtime/translations`: who is let in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from fastapi import APIRouter, WebSocket
from starlette.exceptions import HTTPException

from compress.errors import KompaktError
from serve.call import Call
from serve.engine import find_model
from serve.errors import InvalidField, QueueFull
from serve.ledger import Ledger
from serve.live.conversation import Conversation
from serve.live.policies import POLICIES, Pace
from serve.live.session import Session
from serve.problems import Problem, problem
from serve.routes import Service

LIVE: Final = "/v1/realtime/translations"

router = APIRouter()


class Sessions:
    """All live sessions of a server."""

    def __init__(self, service: Service, ledger: Ledger) -> None:
        self._service = service
        self._ledger = ledger
        self._n = 0

    async def serve(self, websocket: WebSocket) -> None:
        """Serves one, or says why not."""
        settings = self._service.settings
        call = Call(
            LIVE,
            websocket.state.request_id,
            settings.timeout_s,
            settings.max_session_s,
            traceparent=websocket.headers.get("traceparent", ""),
            to_language=settings.to_language,
        )
        try:
            with ExitStack() as places:
                try:
                    _check_origin(websocket, settings.allowed_origins)
                    call.model, pace = _read_query(websocket, self._service)
                    places.enter_context(self._service.gate.slot())
                    places.enter_context(self._place())
                except (KompaktError, HTTPException) as error:
                    await self._refuse(websocket, call, problem(error))
                else:
                    session = await asyncio.to_thread(Session, call.to_language, pace)  # loads a detector
                    await Conversation(websocket, self._service, call, session).run()
        except asyncio.CancelledError:
            call.outcome = "cancelled"
            raise
        finally:
            self._ledger.close(call)

    async def _refuse(self, websocket: WebSocket, call: Call, refusal: Problem) -> None:
        call.outcome = refusal.outcome
        if refusal.outcome == "rejected":
            self._service.metrics.reject(str(refusal.code))
        await websocket.send_denial_response(refusal.response())

    @contextmanager
    def _place(self) -> Iterator[None]:
        limit = self._service.settings.max_sessions
        if self._n >= limit:
            raise QueueFull(f"all {limit} places for live sessions are taken; try again in a moment")
        self._n += 1
        self._service.metrics.ws_sessions.set(self._n)
        try:
            yield
        finally:
            self._n -= 1
            self._service.metrics.ws_sessions.set(self._n)


@router.websocket(LIVE)
async def translate_live(websocket: WebSocket) -> None:
    """Translates speech while it is spoken."""
    sessions: Sessions = websocket.app.state.sessions
    await sessions.serve(websocket)


def _check_origin(websocket: WebSocket, allowed: tuple[str, ...]) -> None:
    """Other sites may not use a reader's browser to come here; programs send no Origin.

    Raises:
        HTTPException: 403.
    """
    origin = websocket.headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return
    if origin.partition("://")[2] != websocket.headers.get("host"):
        raise HTTPException(403, f"pages of {origin} may not open live sessions here; see --allowed-origins")


def _read_query(websocket: WebSocket, service: Service) -> tuple[str, Pace]:
    """The model that is asked for, and the pace.

    Raises:
        InvalidField, UnknownModel: they cannot be had.
    """
    query = dict(websocket.query_params)
    if strays := query.keys() - {"model", "policy"}:
        raise InvalidField(min(strays), f"unknown query parameter {min(strays)!r}; known: model, policy")
    if "model" not in query:
        names = ", ".join(model.name for model in service.engine.models)
        raise InvalidField("model", f"the query parameter 'model' is missing; loaded: {names}")
    find_model(service.engine.models, query["model"])
    policy = query.get("policy", service.settings.live_policy)
    if policy not in POLICIES:
        raise InvalidField("policy", f"unknown policy {policy!r}; known: {', '.join(POLICIES)}")
    return query["model"], Pace.of(policy, service.settings.live_again_s)
