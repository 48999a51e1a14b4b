"""OpenTelemetry traces: a span for every request, with one for each phase of it, written when it has ended."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from compress import __version__
from serve.call import Call
from serve.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_PHASES: Final = 1000  # of an hour-long recording: the first so many


class Tracer:
    """Writes traces through an OpenTelemetry provider."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("kompakt", __version__)

    def trace(self, call: Call) -> None:
        """Writes the spans of a request that ends now; never its audio, never its text."""
        from opentelemetry import trace
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # spans have the time of day, a call the event loop's
        offset_s = time.time() - asyncio.get_running_loop().time()
        parent = TraceContextTextMapPropagator().extract({"traceparent": call.traceparent})
        span = self._tracer.start_span(
            call.endpoint,
            parent,
            SpanKind.SERVER,
            {
                "http.route": call.endpoint,
                "kompakt.request_id": call.request_id,
                "kompakt.model": call.model,
                "kompakt.to_language": call.to_language,
                "kompakt.outcome": call.outcome,
                **({} if call.audio_s is None else {"kompakt.audio_s": call.audio_s}),
            },
            start_time=_ns(call.received + offset_s),
        )
        if call.outcome in ("error", "timeout"):
            span.set_status(StatusCode.ERROR)
        inside = trace.set_span_in_context(span, parent)
        for phase in call.phases[:_PHASES]:
            child = self._tracer.start_span(phase.name, inside, start_time=_ns(phase.start + offset_s))
            child.end(_ns(phase.end + offset_s))
        span.end()

    def close(self) -> None:
        """Sends what has not been sent; blocks for a few seconds if nobody takes it."""
        self._provider.shutdown()


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def exporting_tracer() -> Tracer:
    """A tracer that sends to a collector over OTLP; `OTEL_*` variables say where and how.

    Raises:
        SettingsError: the packages are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        message = f"tracing needs packages that are not installed: pip install 'kompakt-st[tracing]' ({error})"
        raise SettingsError(message) from error
    names = {SERVICE_NAME: "kompakt", SERVICE_VERSION: __version__}
    # what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say wins
    provider = TracerProvider(resource=Resource(names).merge(Resource.create()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=2)))
    return Tracer(provider)
