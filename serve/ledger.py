"""What becomes of a request when it ends: it is counted, logged and, if asked for, traced."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from serve.call import Call
from serve.metrics import Metrics
from serve.tracing import Tracer

logger = logging.getLogger(__name__)


class Ledger:
    """Closes the record of every request and live session."""

    def __init__(self, metrics: Metrics, tracer: Tracer | None = None) -> None:
        self._metrics = metrics
        self._tracer = tracer

    def close(self, call: Call) -> None:
        """The request has ended, as `call.outcome` says."""
        total_s = asyncio.get_running_loop().time() - call.received
        self._metrics.count(call.endpoint, call.to_language, call.model, call.outcome)
        audio = "no audio" if call.audio_s is None else f"{call.audio_s:.1f} s of audio"
        route = f"{call.model} to {call.to_language}"
        fields = {"fields": _fields(call, total_s)}
        logger.info("%s: %s, %s, %.2f s", call.outcome, route, audio, total_s, extra=fields)
        if self._tracer is not None:
            self._tracer.trace(call)


def _fields(call: Call, total_s: float) -> dict[str, Any]:
    """For logs that programs read; seconds, of phases their sum.  Never audio, never text."""
    phases: dict[str, float] = {}
    for phase in call.phases:
        phases[phase.name] = phases.get(phase.name, 0.0) + phase.end - phase.start
    seconds = {"audio": call.audio_s, **phases, "first_text": call.first_text_s, "total": total_s}
    return {
        "endpoint": call.endpoint,
        "outcome": call.outcome,
        "model": call.model,
        "to_language": call.to_language,
        **{f"{name}_s": round(value, 4) for name, value in seconds.items() if value is not None},
    }
