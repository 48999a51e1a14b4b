"""The embedded engine: transformers models in this process, decoded in batches by one thread."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from typing import Final, Literal

import numpy as np
import torch
import transformers

from compress.audio import N_SAMPLES, SAMPLE_RATE, WINDOW_S
from compress.checkpoint import Checkpoint
from compress.errors import AudioTooLong, CheckpointError
from compress.prompt import LANGUAGES, language
from serve.batch import Batch, Job, LoadedModel
from serve.engine import ModelInfo, Request, Result
from serve.errors import EngineFailed, SettingsError, UnknownModel

logger = logging.getLogger(__name__)

# While one batch decodes, what arrives meanwhile gathers and becomes the second; more would read all weights once
# per clip instead of once per batch.
_MAX_BATCHES: Final = 2


class TransformersEngine:
    """A `Translator` over `compress.decoding`.

    One thread owns the models.  In each round it starts a batch of the waiting requests if there is room, then
    advances every running batch by one token, so a new clip need not wait for the end of a long one.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        device: Literal["auto", "cpu", "cuda"] = "auto",
        max_batch: int = 8,
        max_new_tokens: int = 256,
    ) -> None:
        """Checks the checkpoints' names; `start` loads them.

        Raises:
            CheckpointError: two of them have the same name.
        """
        names = [checkpoint.name for checkpoint in checkpoints]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise CheckpointError(f"several checkpoints are called {', '.join(twice)}; names must differ")
        self._checkpoints = dict(zip(names, checkpoints, strict=True))
        self._device = device
        self._max_batch = max_batch
        self._max_new_tokens = max_new_tokens
        self._loaded: dict[str, LoadedModel] = {}
        self._waiting: deque[Job] = deque()
        self._starting: list[Job] = []
        self._batches: list[Batch] = []
        self._changed = threading.Condition()  # guards `_waiting`, `_alive` and `_closing`
        self._alive = False
        self._closing = False
        self._thread: threading.Thread | None = None

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """See `Translator`."""
        return tuple(_info(checkpoint) for checkpoint in self._checkpoints.values())

    @property
    def alive(self) -> bool:
        """See `Translator`."""
        return self._alive

    @property
    def n_running(self) -> int:
        """See `Translator`."""
        return len(self._waiting) + len(self._starting) + sum(len(batch.jobs) for batch in self._batches)

    async def start(self) -> None:
        """See `Translator`.

        Raises:
            CheckpointError: a checkpoint does not load.
            SettingsError: the device is not there.
        """
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="engine", daemon=True)
        self._thread.start()
        await asyncio.wrap_future(started)

    async def translate(self, request: Request) -> AsyncGenerator[str | Result, None]:
        """See `Translator`."""
        self._check(request)
        events: asyncio.Queue[str | Result | Exception] = asyncio.Queue()
        job = Job(request, _post_to(asyncio.get_running_loop(), events))
        with self._changed:
            if not self._alive:
                raise EngineFailed("the engine is not running")
            self._waiting.append(job)
            self._changed.notify()
        try:
            while True:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Result):
                    return
        finally:
            job.cancelled = True

    async def close(self) -> None:
        """See `Translator`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _check(self, request: Request) -> None:
        if request.model not in self._checkpoints:
            raise UnknownModel(f"no model {request.model!r} is loaded; loaded: {', '.join(self._checkpoints)}")
        language(request.to_language)
        if len(request.samples) > N_SAMPLES:
            seconds = len(request.samples) / SAMPLE_RATE
            raise AudioTooLong(f"the audio is {seconds:.1f} s long; the limit is {WINDOW_S} s")

    @torch.inference_mode()
    def _run(self, started: Future[None]) -> None:
        """The engine's thread: load, then rounds until `close`."""
        try:
            self._load()
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the one who waits for `start`
            started.set_exception(error)
            return
        self._alive = True
        started.set_result(None)
        try:
            while self._round():
                pass
        finally:
            self._abandon()

    def _load(self) -> None:
        if self._device == "cuda" and not torch.cuda.is_available():
            raise SettingsError("device cuda was asked for, but there is no CUDA device; use --device auto or cpu")
        transformers.utils.logging.disable_progress_bar()
        on_gpu = self._device != "cpu" and torch.cuda.is_available()
        # fp32 on the CPU: batched and single results are then equal, and older CPUs compute bf16 slowly.
        device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
        if not on_gpu:
            # A step waits for its slowest thread: on 2 busy cores, 2 threads were seen 60 times slower than 1.
            torch.set_num_threads(min(torch.get_num_threads(), max(1, (os.cpu_count() or 1) // 2)))
        for name, checkpoint in self._checkpoints.items():
            try:
                loaded = LoadedModel(checkpoint.load_model(device, dtype), checkpoint.load_processor())
            except Exception as error:
                raise CheckpointError(f"{checkpoint.path} does not load: {error}") from error
            self._loaded[name] = loaded
            self._warm_up(name)

    def _warm_up(self, name: str) -> None:
        """First calls allocate and pick kernels; nobody should wait for that."""
        silence = np.zeros(SAMPLE_RATE, np.float32)
        jobs = [Job(Request(name, silence, code), emit=lambda _: None) for code in LANGUAGES]
        batch = Batch(self._loaded[name], jobs, max_new_tokens=2)
        while batch.jobs:
            batch.step()

    def _round(self) -> bool:
        """Starts what waits, advances what runs; False once the engine is closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._batches or self._closing)
            if self._closing:
                return False
            self._starting = self._next_jobs()
        if self._starting:
            self._begin(self._starting)
            self._starting = []
        for batch in self._batches:
            self._advance(batch)
        self._batches = [batch for batch in self._batches if batch.jobs]
        return True

    def _next_jobs(self) -> list[Job]:
        """Takes those that may start now: oldest first, of one model, no more than there is room for."""
        waiting = [job for job in self._waiting if not job.cancelled]
        room = self._max_batch - sum(len(batch.jobs) for batch in self._batches)
        if len(self._batches) >= _MAX_BATCHES or not waiting:
            room = 0
        jobs = [job for job in waiting if job.request.model == waiting[0].request.model][: max(0, room)]
        self._waiting = deque(job for job in waiting if job not in jobs)
        return jobs

    def _begin(self, jobs: list[Job]) -> None:
        try:
            self._batches.append(Batch(self._loaded[jobs[0].request.model], jobs, self._max_new_tokens))
        except Exception:
            logger.exception("a batch of %d did not start", len(jobs))
            _fail(jobs)

    def _advance(self, batch: Batch) -> None:
        try:
            batch.step()
        except Exception:
            logger.exception("a batch of %d broke off", len(batch.jobs))
            _fail(batch.jobs)
            batch.abandon()

    def _abandon(self) -> None:
        with self._changed:
            self._alive = False
            jobs = [*self._waiting, *self._starting, *(job for batch in self._batches for job in batch.jobs)]
            self._waiting.clear()
        self._batches = []
        self._loaded = {}
        for job in jobs:
            job.emit(EngineFailed("the engine was stopped before the translation was complete"))


def _fail(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.emit(EngineFailed("the engine failed on this request; the server's log has the cause"))


def _post_to(
    loop: asyncio.AbstractEventLoop, events: asyncio.Queue[str | Result | Exception]
) -> Callable[[str | Result | Exception], None]:
    def post(event: str | Result | Exception) -> None:
        if not loop.is_closed():  # a command line that was interrupted no longer listens
            loop.call_soon_threadsafe(events.put_nowait, event)

    return post


def _info(checkpoint: Checkpoint) -> ModelInfo:
    written = max(file.stat().st_mtime for file in checkpoint.path.glob("*.safetensors"))
    return ModelInfo(checkpoint.name, checkpoint.lineage, checkpoint.n_bytes, int(written))
