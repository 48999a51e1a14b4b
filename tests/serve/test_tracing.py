"""Traces as a collector gets them, from requests over real sockets."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serve.errors import EngineFailed
from serve.tracing import Tracer, exporting_tracer
from tests.serve.processes import ROOT
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, form, running, settings_for_tests, wait_until

PATH = "/v1/audio/translations"
CLIENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def collector() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    yield exporter
    exporter.shutdown()


def spans_of(collector: InMemorySpanExporter, clip: Path, script: str | Exception) -> dict[str, ReadableSpan]:
    """One request's spans by their names."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(collector))
    with running(settings_for_tests(), ScriptedTranslator(script), tracer=Tracer(provider)) as server:
        headers = {"traceparent": CLIENT, "X-Request-Id": "trace-7"}
        httpx.post(server.url + PATH, headers=headers, timeout=PATIENCE_S, **form(clip, model="scripted"))
        wait_until(lambda: any(span.name == PATH for span in collector.get_finished_spans()))
    return {span.name: span for span in collector.get_finished_spans()}


def test_a_request_is_a_span_with_one_for_each_phase(collector: InMemorySpanExporter, clip: Path) -> None:
    started = time.time_ns()
    spans = spans_of(collector, clip, "Streng geheim")
    request = spans.pop(PATH)
    assert spans.keys() == {"decode", "queue", "translate"}
    assert request.context is not None
    assert request.parent is not None
    assert f"{request.context.trace_id:032x}" == CLIENT.split("-")[1], "it belongs to the client's trace"
    assert f"{request.parent.span_id:016x}" == CLIENT.split("-")[2]
    assert request.attributes is not None
    assert request.attributes["kompakt.outcome"] == "ok"
    assert request.attributes["kompakt.request_id"] == "trace-7"
    assert request.start_time is not None
    assert request.end_time is not None
    assert started - 1e9 < request.start_time < request.end_time < time.time_ns() + 1e9
    for span in spans.values():
        assert span.parent == request.context
        assert span.start_time is not None
        assert request.start_time - 1e6 <= span.start_time
    assert "geheim" not in "".join(span.to_json() for span in (request, *spans.values()))


def test_a_failure_is_marked(collector: InMemorySpanExporter, clip: Path) -> None:
    span = spans_of(collector, clip, EngineFailed("the engine failed"))[PATH]
    assert not span.status.is_ok
    assert span.attributes is not None
    assert span.attributes["kompakt.outcome"] == "error"


def test_a_collector_that_is_not_there_does_not_hold_up_the_end() -> None:
    tracer = exporting_tracer()
    started = time.monotonic()
    tracer.close()
    assert time.monotonic() - started < 10


def test_nothing_of_it_is_loaded_unless_asked_for() -> None:
    code = "import serve.server, sys; print(any(name.startswith('opentelemetry') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "False\n"
