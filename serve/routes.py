"""The HTTP routes: from a form to audio, from audio to text."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, cast

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from compress.audio import SAMPLE_RATE, WINDOW_S, decode
from serve import engine, messages
from serve.errors import InvalidField, UnknownModel
from serve.gate import Gate
from serve.limits import Call
from serve.messages import Translation, TranslationForm
from serve.metrics import Metrics
from serve.problems import problem
from serve.settings import Settings

logger = logging.getLogger(__name__)
router = APIRouter()

TRANSLATIONS: Final = "/v1/audio/translations"
_MULTIPART: Final = "multipart/form-data"


@dataclass(frozen=True)
class Service:
    """What the routes work with; `app.state.service`."""

    settings: Settings
    engine: engine.Translator
    gate: Gate
    metrics: Metrics


def _openapi_form() -> dict[str, Any]:
    schema = TranslationForm.model_json_schema()
    schema["properties"] = {"file": {"type": "string", "format": "binary"}, **schema["properties"]}
    schema["required"] = ["file", "model"]
    return {"requestBody": {"required": True, "content": {_MULTIPART: {"schema": schema}}}}


@router.post(TRANSLATIONS, openapi_extra=_openapi_form())
async def translate(request: Request) -> Response:
    """Translates English speech into the text of another language."""
    service: Service = request.app.state.service
    call: Call = request.state.call
    async with asyncio.timeout_at(call.deadline):
        form, audio = await _read_form(request)
        call.to_language = form.to_language or service.settings.to_language
        names = [model.name for model in service.engine.models]
        if form.model not in names:
            raise UnknownModel(f"no model {form.model!r} is loaded; loaded: {', '.join(names)}")
        call.model = form.model
        samples = await asyncio.to_thread(decode, audio, WINDOW_S)
    call.audio_s = len(samples) / SAMPLE_RATE
    service.metrics.hear(call.audio_s)
    clip = engine.Request(form.model, samples, call.to_language, form.max_completion_tokens)
    pieces = _translate(service, call, clip)
    if form.stream:
        return _EventStream(_events(pieces, call))
    translation = await _last(pieces)
    if form.response_format == "text":
        return PlainTextResponse(translation.text)
    return JSONResponse(translation.model_dump())


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The loaded models, each with its checkpoint's lineage; the first is the default of the page."""
    service: Service = request.app.state.service
    return {"object": "list", "data": [messages.model_card(model) for model in service.engine.models]}


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process is up."""
    return {"status": "live"}


@router.get("/readyz")
@router.get("/health")
async def readyz(request: Request) -> dict[str, str]:
    """The models are loaded and warm, and new requests are taken; 503 otherwise."""
    service: Service = request.app.state.service
    service.gate.check()
    return {"status": "ready"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    service: Service = request.app.state.service
    return Response(service.metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def unknown(request: Request) -> Response:
    """Answers for the API before the page at `/` would."""
    known = {str(getattr(route, "path", "")): getattr(route, "methods", None) for route in router.routes}
    if allowed := known.get(request.url.path):
        raise HTTPException(405, f"{request.url.path} takes {', '.join(allowed)}", {"Allow": ", ".join(allowed)})
    raise HTTPException(404, f"there is no {request.url.path}; try {TRANSLATIONS} or /v1/models")


async def _read_form(request: Request) -> tuple[TranslationForm, bytes]:
    """The fields and the audio's bytes of a multipart body.

    Raises:
        InvalidField: a field is missing, unknown or invalid.
        UploadTooLarge: from the body's bound (see `limits`).
    """
    if not request.headers.get("content-type", "").startswith(_MULTIPART):
        raise HTTPException(415, f"the body must be {_MULTIPART}, with the audio in the field 'file'")
    async with request.form(max_files=1, max_fields=len(TranslationForm.model_fields)) as content:
        parts = dict(content)
        upload = parts.pop("file", None)
        strays = [name for name, part in parts.items() if isinstance(part, UploadFile)]
        if strays:
            raise InvalidField(strays[0], f"the audio belongs in the field 'file', not in {strays[0]!r}")
        form = messages.parse_form(cast("dict[str, str]", parts))
        if not isinstance(upload, UploadFile):
            raise InvalidField("file", "the form field 'file' is missing; send the audio there as a file")
        return form, await upload.read()


async def _translate(service: Service, call: Call, clip: engine.Request) -> AsyncGenerator[str | Translation, None]:
    """The engine's pieces of text, then the whole with all its times."""
    clock = asyncio.get_running_loop().time
    audio_s = len(clip.samples) / SAMPLE_RATE
    first_text_s = None
    async with aclosing(service.engine.translate(clip)) as pieces:
        while True:
            async with asyncio.timeout_at(call.deadline):
                piece = await anext(pieces)  # an engine ends with a `Result` or an exception, never before
            elapsed_s = clock() - call.received
            if isinstance(piece, engine.Result):
                service.metrics.observe(piece.timings, audio_s, first_text_s, elapsed_s)
                yield messages.translation(piece, audio_s, first_text_s, elapsed_s)
                return
            first_text_s = first_text_s or elapsed_s
            yield piece


async def _last(pieces: AsyncGenerator[str | Translation, None]) -> Translation:
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Translation):
                return piece
    raise AssertionError("unreachable: _translate ends with a Translation")


async def _events(pieces: AsyncGenerator[str | Translation, None], call: Call) -> AsyncGenerator[str, None]:
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Translation):
                    yield messages.event(messages.Done(**piece.model_dump()).model_dump())
                    yield messages.DONE
                else:
                    yield messages.delta_event(piece)
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
