"""What Prometheus reads: base units, bounded labels, a registry of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from compress import __version__
from serve.engine import Timings
from serve.problems import Outcome

OTHER: Final = "other"  # label of what a client made up
_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_FACTORS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        # they would put a second series beside each, which says when that began
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        labels = ("endpoint", "target_language", "model", "outcome")
        self._requests = Counter("st_requests", "Requests by outcome", labels, registry=self.registry)
        self._audio = Counter("st_audio_input_seconds", "Seconds of audio decoded", registry=self.registry)
        self._duration = self._histogram("st_request_duration_seconds", "First byte in to last byte out")
        self._first_text = self._histogram("st_time_to_first_text_seconds", "First byte in to first text out")
        self._decode = self._histogram("st_decode_seconds", "First work on a stretch of speech to its last token")
        self._queue_wait = self._histogram("st_queue_wait_seconds", "Submission of a stretch to the first work on it")
        self._factor = self._histogram("st_realtime_factor", "Duration of a request / duration of its audio", _FACTORS)
        self._rejections = Counter("st_rejections", "Requests not taken", ("reason",), registry=self.registry)
        self.inflight = Gauge("st_inflight_requests", "Requests in progress", registry=self.registry)
        self.ws_sessions = Gauge("st_ws_sessions_active", "Live sessions", registry=self.registry)
        self.live_lag = self._histogram("st_live_lag_seconds", "Audio heard from a stretch's end to its last text")
        self.draining = Gauge("st_draining", "1 while no new work is taken before the end", registry=self.registry)
        self._ready = Gauge("st_ready", "1 while new work is taken", registry=self.registry)
        ProcessCollector(registry=self.registry)  # memory, processor time, open files
        build = Gauge("st_build_info", "Always 1", ("version",), registry=self.registry)
        build.labels(__version__).set(1)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)

    def count(self, endpoint: str, to_language: str, model: str, outcome: Outcome) -> None:
        """Counts an ended request."""
        self._requests.labels(endpoint, to_language, model, outcome).inc()

    def reject(self, reason: str) -> None:
        """Counts a request that was not taken."""
        self._rejections.labels(reason).inc()

    def watch(self, ready: Callable[[], bool]) -> None:
        """Shows whether new work is taken, as it is when somebody looks."""
        self._ready.set_function(ready)

    def hear(self, audio_s: float) -> None:
        """Counts decoded audio."""
        self._audio.inc(audio_s)

    def translate(self, timings: Timings) -> None:
        """Notes the times of a stretch of speech that was translated."""
        self._decode.observe(timings.decode_s)
        self._queue_wait.observe(timings.queue_wait_s)

    def observe(self, audio_s: float, first_text_s: float | None, total_s: float) -> None:
        """Notes the times of a request that was completed."""
        self._duration.observe(total_s)
        self._factor.observe(total_s / audio_s)
        if first_text_s is not None:
            self._first_text.observe(first_text_s)

    def render(self) -> bytes:
        """The exposition in Prometheus' text format."""
        return generate_latest(self.registry)
