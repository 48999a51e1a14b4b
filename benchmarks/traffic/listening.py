"""An engine's translation as its caller hears it, without a server between them."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass

from serve.engine import Request, Result, Translator


@dataclass(frozen=True)
class Said:
    """One translation, and what its caller waited for the first text and the last, in seconds."""

    text: str
    n_tokens: int
    first_text_s: float
    total_s: float


async def said(engine: Translator, request: Request) -> Said:
    """A translation; the first text of an empty one is its end."""
    started = time.perf_counter()
    first_s = None
    async with aclosing(engine.translate(request)) as events:
        async for event in events:
            now = time.perf_counter() - started
            if isinstance(event, Result):
                return Said(event.text, event.n_output_tokens, first_s or now, now)
            first_s = first_s or now
    raise AssertionError("a translation ends with its result")
