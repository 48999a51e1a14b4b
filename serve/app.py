"""The application: routes, limits and page around one engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_urlsafe

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from compress import __version__
from compress.errors import KompaktError
from serve import routes
from serve.auth import Auth, Keys
from serve.engine import Translator
from serve.gate import Gate
from serve.ledger import Ledger
from serve.limits import Admission
from serve.live import route as live
from serve.metrics import Metrics
from serve.problems import problem
from serve.request_id import RequestId
from serve.settings import Settings
from serve.tracing import Tracer

logger = logging.getLogger(__name__)


def create_app(
    settings: Settings, engine: Translator, base_url: str | None = None, tracer: Tracer | None = None
) -> FastAPI:
    """Builds the application.

    Args:
        settings: the operator's settings.
        engine: not yet started; the application starts it beside serving `/readyz`, and closes it.
        base_url: where the page reaches this server, e.g. `http://127.0.0.1:8000`; derived from the settings if None.
        tracer: writes a trace of every request; the application closes it.
    """
    metrics = Metrics()
    ledger = Ledger(metrics, tracer)
    gate = Gate(settings.max_requests, metrics, lambda: engine.alive, lambda: engine.trouble)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(engine, gate))
        try:
            yield
        finally:
            gate.drain()
            loading.cancel()  # nobody will need what it may still be waiting for
            await asyncio.wait([loading])
            await engine.close()
            if tracer is not None:
                await asyncio.to_thread(tracer.close)

    # FastAPI's own pages would load their scripts from the internet.
    app = FastAPI(title="Kompakt", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = routes.Service(settings, engine, gate, metrics)
    app.include_router(routes.router)
    app.state.sessions = live.Sessions(app.state.service, ledger)
    app.include_router(live.router)
    for error_class in (KompaktError, HTTPException, TimeoutError):
        app.add_exception_handler(error_class, _answer)
    page_key = token_urlsafe() if settings.keys else ""  # the page is a client like any other
    if settings.page:
        from serve.page.mount import mount_page

        mount_page(app, settings, metrics, base_url or f"http://{settings.loopback}:{settings.port}", page_key)
    app.add_middleware(
        Admission,
        gate=gate,
        metrics=metrics,
        ledger=ledger,
        paths=frozenset({routes.TRANSLATIONS}),
        settings=settings,
    )
    if settings.keys:
        app.add_middleware(Auth, keys=Keys([*settings.keys, page_key]), metrics=metrics)
    app.add_middleware(RequestId)
    return app


async def _load(engine: Translator, gate: Gate) -> None:
    try:
        await engine.start()
    except KompaktError as error:
        gate.fail(str(error))
    except Exception as error:
        logger.exception("the engine does not start")
        gate.fail(f"the engine does not start: {error}")
    else:
        gate.open()


async def _answer(_: Request, error: Exception) -> JSONResponse:
    return problem(error).response()
