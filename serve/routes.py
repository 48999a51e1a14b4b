"""The HTTP routes: from a form to audio, from audio to text."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import BinaryIO, Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from compress.audio import Samples
from compress.errors import KompaktError
from compress.prompt import language
from serve import engine, messages, openapi
from serve.call import Call
from serve.captions import srt, vtt
from serve.form import TranslationForm, read_form
from serve.gate import Gate
from serve.interpreter import Passage, interpret
from serve.messages import Translated
from serve.metrics import Metrics
from serve.model_card import ModelList, model_card
from serve.problems import problem
from serve.recording import Heard, Recording
from serve.settings import Settings

logger = logging.getLogger(__name__)
router = APIRouter()

TRANSLATIONS: Final = "/v1/audio/translations"


@dataclass(frozen=True)
class Service:
    """What the routes work with; `app.state.service`."""

    settings: Settings
    engine: engine.Translator
    gate: Gate
    metrics: Metrics


Event = Heard | str | Translated  # what is told of a translation while it is made; the last one ends it


@router.post(TRANSLATIONS, openapi_extra=openapi.form(), responses=openapi.TRANSLATIONS)
async def translate(request: Request) -> Response:
    """Translates English speech into the text of another language."""
    service: Service = request.app.state.service
    call: Call = request.state.call
    async with asyncio.timeout_at(call.deadline):
        form, file = await read_form(request)
    call.progress()
    call.to_language = form.to_language or service.settings.to_language
    try:
        model = engine.find_model(service.engine.models, form.model)
        call.model = form.model
        model.check_language(call.to_language)
    except KompaktError:
        file.close()
        raise
    events = _translate(service, call, form, file)
    await anext(events)  # something was heard, so that no stream begins with what is no audio
    if form.stream:
        return _EventStream(_messages(events, call))
    return _response(form.response_format, await _last(events))


@router.get("/v1/models")
async def models(request: Request) -> ModelList:
    """The loaded models, each with its checkpoint's lineage; the first is the default of the page."""
    service: Service = request.app.state.service
    return ModelList(data=[model_card(model) for model in service.engine.models])


@router.get("/livez", responses=openapi.UNAVAILABLE)
async def livez(request: Request) -> dict[str, str]:
    """The process is up and may become ready; 503 once it never will."""
    service: Service = request.app.state.service
    service.gate.check_alive()
    return {"status": "live"}


@router.get("/readyz", responses=openapi.UNAVAILABLE)
@router.get("/health", responses=openapi.UNAVAILABLE)
async def readyz(request: Request) -> dict[str, str]:
    """The models are loaded and warm, and new requests are taken; 503 otherwise."""
    service: Service = request.app.state.service
    service.gate.check()
    return {"status": "ready"}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    service: Service = request.app.state.service
    content = service.metrics.render() + service.engine.exposition()
    return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def unknown(request: Request) -> Response:
    """Answers for the API before the page at `/` would."""
    known = {str(getattr(route, "path", "")): getattr(route, "methods", None) for route in router.routes}
    if allowed := known.get(request.url.path):
        raise HTTPException(405, f"{request.url.path} takes {', '.join(allowed)}", {"Allow": ", ".join(allowed)})
    raise HTTPException(404, f"there is no {request.url.path}; try {TRANSLATIONS} or /v1/models")


async def _translate(
    service: Service, call: Call, form: TranslationForm, file: BinaryIO
) -> AsyncGenerator[Event, None]:
    """The recording's translation as it is made, with all that is measured on the way; closes the file."""
    clock = asyncio.get_running_loop().time
    began, audio_s = clock(), 0.0
    passages: list[Passage] = []
    pieces: list[str] = []
    n_asked = count()

    def ask(samples: Samples) -> AsyncGenerator[str | engine.Result, None]:
        first = next(n_asked) == 0
        request = engine.Request(form.model, samples, call.to_language, form.max_completion_tokens, patient=not first)
        return service.engine.translate(request)

    recording = Recording(file, service.settings.max_audio_s)
    # One recording takes half of a batch at most, so that others need not wait for its end.
    ahead = max(1, service.settings.max_batch // 2)
    async with aclosing(interpret(recording, ask, ahead, language(call.to_language).joiner)) as events:
        while True:
            async with asyncio.timeout_at(call.deadline):
                event = await anext(events, None)
            call.progress()
            match event:
                case Heard():
                    if not audio_s:
                        call.spent("decode", began)
                    service.metrics.hear(event.audio_s - audio_s)
                    audio_s = call.audio_s = event.audio_s
                    yield event
                case str():
                    call.first_text_s = call.first_text_s or clock() - call.received
                    pieces.append(event)
                    yield event
                case Passage():
                    call.translated(event.result.timings)
                    service.metrics.translate(event.result.timings)
                    passages.append(event)
                case None:
                    break
    total_s = clock() - call.received
    service.metrics.observe(audio_s, call.first_text_s, total_s)
    yield Translated(call.to_language, "".join(pieces), passages, audio_s, call.first_text_s, total_s)


def _response(response_format: str, done: Translated) -> Response:
    match response_format:
        case "text":
            return PlainTextResponse(done.text)
        case "srt":
            return Response(srt(messages.cues(done.passages)), media_type="application/x-subrip; charset=utf-8")
        case "vtt":
            return Response(vtt(messages.cues(done.passages)), media_type="text/vtt")
        case "verbose_json":
            return JSONResponse(messages.verbose_translation(done).model_dump())
        case _:
            return JSONResponse(messages.translation(done).model_dump())


async def _last(events: AsyncGenerator[Event, None]) -> Translated:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Translated):
                return event
    raise AssertionError("unreachable: _translate ends with a Translated")


async def _messages(events: AsyncGenerator[Event, None], call: Call) -> AsyncGenerator[str, None]:
    """The events of a stream."""
    try:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, str):
                    yield messages.delta_event(event)
                elif isinstance(event, Translated):
                    yield messages.done_event(event)
                    yield messages.DONE
    except Exception as error:
        trouble = problem(error)
        call.outcome = trouble.outcome
        if trouble.status >= 500:
            logger.exception("a stream broke off")
        yield messages.event({"type": "error", **trouble.body})


class _EventStream(StreamingResponse):
    """Server-sent events whose source is closed at once when the client goes, not when it is collected."""

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)
