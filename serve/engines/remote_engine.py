"""The engine of a front: other servers translate, chosen clip by clip."""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from compress.audio import SAMPLE_RATE, Samples
from serve.client import ApiError, Ended
from serve.engine import ModelInfo, Request, Result, Timings
from serve.engines.description import check
from serve.engines.fleet import BROKE_OFF, STOPPED, Fleet
from serve.engines.replica import Replica, is_refusal
from serve.errors import EngineFailed
from serve.logs import request_id

logger = logging.getLogger(__name__)

_FAILURES: Final = 3  # servers that may break off at the same clip; it may be what breaks them


class RemoteEngine:
    """A `Translator` over other servers that speak this package's route, or vLLM's.

    A clip that a server refuses, or breaks off before the first piece of its text, is given to another one: within
    `patience_s` if they are away, or busy and the clip is not patient; and to three at most if they fail.  Text that
    has been told is never begun anew.  The engine stays alive without them, but is in trouble.
    """

    def __init__(self, urls: Sequence[str], key: str, timeout_s: float, patience_s: float = 10.0) -> None:
        """Notes where the servers are; `start` asks them for their models.

        Args:
            urls: their addresses, each once.
            key: what they want as bearer; empty: nothing.
            timeout_s: how long they may be silent while they translate, and none be ready at the start.
            patience_s: how long a clip waits for one that can take it, unless it is patient and they are only busy.
        """
        self._fleet = Fleet(urls, key, timeout_s, patience_s)
        self._timeout_s = timeout_s
        self._models: tuple[ModelInfo, ...] = ()
        self._alive = False
        self._n_running = 0

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """See `Translator`."""
        return self._models

    @property
    def alive(self) -> bool:
        """See `Translator`; without any server it still is, because they may come back."""
        return self._alive

    @property
    def trouble(self) -> str:
        """See `Translator`."""
        return self._fleet.trouble

    @property
    def n_running(self) -> int:
        """See `Translator`."""
        return self._n_running

    async def start(self) -> None:
        """See `Translator`; servers that are not ready yet may join later, but not with models of their own.

        Raises:
            EngineFailed: none is ready in time.
            SettingsError: they do not offer the same models, or do not take the key.
        """
        self._models = await self._fleet.start(self._timeout_s)
        self._alive = True

    async def translate(self, request: Request) -> AsyncGenerator[str | Result, None]:
        """See `Translator`."""
        check(request, self._models)
        if not self._alive:
            raise EngineFailed("the engine is not running")
        self._n_running += 1
        try:
            async with aclosing(self._attempts(request)) as events:
                async for event in events:
                    yield event
        finally:
            self._n_running -= 1

    def exposition(self) -> bytes:
        """See `Translator`."""
        return self._fleet.exposition()

    async def close(self) -> None:
        """See `Translator`."""
        self._alive = False
        await self._fleet.close()

    async def _attempts(self, request: Request) -> AsyncGenerator[str | Result, None]:
        submitted = time.monotonic()
        wait = self._fleet.wait(patient=request.patient)
        audio = wav(request.samples)
        avoided: set[Replica] = set()
        n_failures = 0
        while True:
            replica = await self._fleet.take(avoided, wait)
            told = False
            try:
                async with aclosing(self._attempt(replica, request, audio, submitted)) as events:
                    async for event in events:
                        told = True
                        yield event
                return
            except ApiError as error:
                if not self._alive:
                    raise EngineFailed(STOPPED) from error
                if is_refusal(error):
                    continue
                logger.warning("%s failed on a clip: %s", replica.url, error)
                n_failures += 1
                if told or n_failures == _FAILURES:
                    raise EngineFailed(BROKE_OFF) from error
                wait.begin()
                if not error.lost:
                    avoided.add(replica)

    async def _attempt(
        self, replica: Replica, request: Request, audio: bytes, submitted: float
    ) -> AsyncGenerator[str | Result, None]:
        """One server's translation.

        Raises:
            ApiError: it refuses, or breaks off.
        """
        asked = time.monotonic()
        first_text_s: float | None = None
        ended: Ended | None = None
        stream = replica.client.translate(
            audio, request.model, request.to_language, request.max_new_tokens, request_id.get()
        )
        with self._fleet.in_hand(replica):
            async with aclosing(stream) as events:
                async for event in events:
                    if isinstance(event, Ended):
                        ended = event
                        continue
                    first_text_s = first_text_s or time.monotonic() - submitted
                    yield event
        assert ended is not None, "a stream without an end is an ApiError"
        waited_s = asked - submitted + (ended.timings.get("queue_wait_s") or 0.0)
        decode_s = ended.timings.get("decode_s")
        if decode_s is None:
            decode_s = time.monotonic() - asked
        timings = Timings(waited_s, first_text_s, decode_s)
        yield Result(ended.text, ended.n_input_tokens, ended.n_output_tokens, timings)


def wav(samples: Samples) -> bytes:
    """A file of the samples as they are, 32-bit floats: rounded, they might become another text."""
    content = samples.astype("<f4").tobytes()
    audio_format = struct.pack("<HHIIHH", 3, 1, SAMPLE_RATE, 4 * SAMPLE_RATE, 4, 32)  # IEEE floats, mono
    head = struct.pack("<4sI4s4sI", b"RIFF", 36 + len(content), b"WAVE", b"fmt ", len(audio_format))
    return head + audio_format + struct.pack("<4sI", b"data", len(content)) + content
