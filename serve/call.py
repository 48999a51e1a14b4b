"""What is known of one request while it runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from serve.engine import Timings
from serve.metrics import OTHER
from serve.problems import Outcome


@dataclass(frozen=True)
class Phase:
    """A stretch of a request's time; `start` and `end` are in seconds of the event loop's clock."""

    name: str
    start: float
    end: float


@dataclass
class Call:
    """The record of one request or live session, for whoever serves it to fill in; `Ledger` closes it.

    Attributes:
        endpoint: its route, a label of the metrics.
        request_id: as the client is told it.
        timeout_s: how long it may go without progress.
        max_s: how long it may take in all.
        traceparent: the client's place in a distributed trace (W3C Trace Context), if it sent one.
        received: when it arrived, in seconds of the event loop's clock.
        deadline: when it is given up, on the same clock; see `progress`.
        model: which one translates, once it is known to be loaded.
        to_language: into which language, once it is known to be offered.
        audio_s: how much was heard.
        first_text_s: from its arrival to the first piece of text.
        outcome: how it ended.
        phases: what its time went on; some may overlap.
    """

    endpoint: str
    request_id: str
    timeout_s: float
    max_s: float
    traceparent: str = ""
    received: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    deadline: float = field(init=False)
    model: str = OTHER
    to_language: str = OTHER
    audio_s: float | None = None
    first_text_s: float | None = None
    outcome: Outcome = "ok"
    phases: list[Phase] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.deadline = self.received + min(self.timeout_s, self.max_s)

    def progress(self) -> None:
        """Something was achieved, such as the text of a segment: `timeout_s` counts anew."""
        self.deadline = min(asyncio.get_running_loop().time() + self.timeout_s, self.received + self.max_s)

    def spent(self, name: str, start: float) -> None:
        """Notes a phase that ends now."""
        self.phases.append(Phase(name, start, asyncio.get_running_loop().time()))

    def translated(self, timings: Timings) -> None:
        """Notes the phases of a translation whose result has just come from the engine."""
        now = asyncio.get_running_loop().time()
        began = now - timings.decode_s
        self.phases.append(Phase("queue", began - timings.queue_wait_s, began))
        self.phases.append(Phase("translate", began, now))
