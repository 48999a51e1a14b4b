"""The embedded engine: transformers models in this process, decoded in batches that clips may join at any time."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, Literal

import torch
import transformers

from compress.checkpoint import Checkpoint
from compress.errors import CheckpointError
from serve.engine import ModelInfo, Request, Result
from serve.engines.batch import Batch, Event, Job, LoadedModel, warm_up
from serve.engines.description import by_name, check, describe
from serve.engines.schedule import Read, Schedule, Step
from serve.errors import EngineFailed, SettingsError

logger = logging.getLogger(__name__)

# On a CPU, one reads what arrives while the other decodes, each on half of the cores: together they keep all cores
# busy, and neither waits for the other's.  A clip that is alone has all cores for whatever is done for it.  A GPU does
# one thing at a time.
_CPU_WORKERS: Final = 2


class TransformersEngine:
    """A `Translator` over `compress.decoding`.

    Its threads work through a `Schedule`: they read clips that wait, and advance each model's batch, which the clips
    join once they are read, by a token at a time.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        device: Literal["auto", "cpu", "cuda"] = "auto",
        max_batch: int = 8,
        max_new_tokens: int = 256,
    ) -> None:
        """Checks the checkpoints' names; `start` loads them.

        Args:
            checkpoints: what it serves.
            device: where it computes.
            max_batch: clips of one model that are decoded together.
            max_new_tokens: a text is cut here at the latest.

        Raises:
            CheckpointError: two of them have the same name.
        """
        self._checkpoints = by_name(checkpoints)
        self._models = tuple(describe(checkpoint) for checkpoint in checkpoints)
        self._device = device
        self._max_new_tokens = max_new_tokens
        self._loaded: dict[str, LoadedModel] = {}
        self._batches: dict[str, Batch] = {}
        self._schedule = Schedule(list(self._checkpoints), max_batch)
        self._changed = threading.Condition()  # guards `_schedule`, `_alive` and `_closing`
        self._alive = False
        self._closing = False
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._torch_threads = torch.get_num_threads()  # of the process, which gets them back
        self._torch_share = self._torch_threads  # of them, for one of several workers

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """See `Translator`."""
        return self._models

    @property
    def alive(self) -> bool:
        """See `Translator`."""
        return self._alive

    @property
    def trouble(self) -> str:
        """See `Translator`; nothing but its death keeps it from work."""
        return ""

    @property
    def n_running(self) -> int:
        """See `Translator`."""
        with self._changed:
            return len(self._schedule)

    async def start(self) -> None:
        """See `Translator`.

        Raises:
            CheckpointError: a checkpoint does not load.
            SettingsError: the device is not there.
        """
        self._loop = asyncio.get_running_loop()
        started: Future[None] = Future()
        started.set_running_or_notify_cancel()  # who no longer waits for it must not break the thread that sets it
        self._begin(self._load_and_work, started)
        await asyncio.wrap_future(started)

    async def translate(self, request: Request) -> AsyncGenerator[str | Result, None]:
        """See `Translator`."""
        check(request, self._models)
        job = Job(request)
        with self._changed:
            if not self._alive:
                raise EngineFailed("the engine is not running")
            self._schedule.add(job)
            self._changed.notify()
        try:
            while True:
                event = await job.events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Result):
                    return
        finally:
            self._cancel(job)

    def exposition(self) -> bytes:
        """See `Translator`; all there is to know of it is in the server's own metrics."""
        return b""

    async def close(self) -> None:
        """See `Translator`."""
        self._stop("the engine was stopped before the translation was complete")
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._batches, self._loaded = {}, {}
        torch.set_num_threads(self._torch_threads)

    def _cancel(self, job: Job) -> None:
        """Its caller has left, or has all of it: if it has a place, the next step frees it."""
        with self._changed:
            job.cancelled = True
            if self._schedule.is_waiting(job):
                self._schedule.end(job)

    # --- the threads ----------------------------------------------------------------------------------------------

    def _begin(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, name=f"engine-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _load_and_work(self, started: Future[None]) -> None:
        try:
            n_workers = self._load()
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the one who waits for `start`
            started.set_exception(error)
            return
        with self._changed:
            self._alive = not self._closing
        for _ in range(n_workers - 1):
            self._begin(self._work)
        started.set_result(None)
        self._work()

    def _work(self) -> None:
        """Works until the engine is closed.  What escapes is no single request's fault, and ends the engine."""
        try:
            with torch.inference_mode():
                while work := self._next():
                    if isinstance(work, Read):
                        self._read(work.job)
                    else:
                        self._step(work)
        except BaseException:  # even SystemExit: nobody else would notice that this thread is gone
            logger.exception("the engine has died")
            self._stop("the engine has died; the server's log has the cause")

    def _next(self) -> Read | Step | None:
        """Waits for work; None once the engine is closed."""
        with self._changed:
            while not self._closing:
                if work := self._schedule.next():
                    self._changed.notify()  # there may be more for another thread
                    torch.set_num_threads(self._torch_threads if len(self._schedule) == 1 else self._torch_share)
                    return work
                self._changed.wait()
        return None

    def _read(self, job: Job) -> None:
        job.started = time.perf_counter()
        try:
            reading = self._loaded[job.request.model].read(job.request)
        except torch.AcceleratorError:
            raise  # a GPU that has failed once fails every time
        except Exception:
            logger.exception("a clip could not be read")
            self._tell([(job, _failure())])
            return
        with self._changed:
            self._schedule.has_read(job, reading)

    def _step(self, step: Step) -> None:
        batch = self._batches[step.model]
        joining = [job for job, _ in step.joining]
        gone: list[Job] = []
        try:
            for job, reading in step.joining:
                batch.join(job, reading)
            gone = batch.drop_cancelled()
            if joining:
                self._tell(batch.step())  # their first tokens
            news = batch.step()
        except torch.AcceleratorError:
            raise
        except Exception:
            logger.exception("a batch of %d broke off", len(batch.jobs))
            news = [(job, _failure()) for job in dict.fromkeys([*batch.jobs, *joining])]
            self._batches[step.model] = Batch(self._loaded[step.model], self._max_new_tokens)
        self._tell(news, gone)
        with self._changed:
            self._schedule.has_stepped(step.model)

    def _tell(self, news: Sequence[tuple[Job, Event]], gone: Sequence[Job] = ()) -> None:
        """Passes news on to the callers, once those jobs are taken out of the engine that they end."""
        with self._changed:
            for job in [*gone, *(job for job, event in news if not isinstance(event, str))]:
                self._schedule.end(job)
        if not news:
            return
        assert self._loop is not None, "jobs come from a running loop"
        with suppress(RuntimeError):  # a command line that was interrupted has closed its loop and no longer listens
            self._loop.call_soon_threadsafe(_deliver, news)

    def _stop(self, message: str) -> None:
        """No more work: the threads end after what they are doing, and all who wait are told at once."""
        with self._changed:
            self._alive = False
            self._closing = True
            jobs = self._schedule.clear()
            self._changed.notify_all()
        self._tell([(job, EngineFailed(message)) for job in jobs])

    def _load(self) -> int:
        """Loads and warms up all models; returns how many threads may work with them."""
        if self._device == "cuda" and not torch.cuda.is_available():
            raise SettingsError("device cuda was asked for, but there is no CUDA device; use --device auto or cpu")
        transformers.utils.logging.disable_progress_bar()
        on_gpu = self._device != "cpu" and torch.cuda.is_available()
        # fp32 on the CPU: batched and single results are then equal, and older CPUs compute bf16 slowly.
        device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
        n_cores = len(os.sched_getaffinity(0))
        if not on_gpu:
            # A step waits for its slowest thread: on 2 busy cores, 2 threads were seen 60 times slower than 1.
            self._torch_share = min(self._torch_threads, max(1, n_cores // _CPU_WORKERS))
        for name, checkpoint in self._checkpoints.items():
            try:
                loaded = LoadedModel(checkpoint.load_model(device, dtype), checkpoint.load_processor())
            except Exception as error:
                raise CheckpointError(f"{checkpoint.path} does not load: {error}") from error
            warm_up(loaded)
            self._loaded[name] = loaded
            self._batches[name] = Batch(loaded, self._max_new_tokens)
        return 1 if on_gpu else min(_CPU_WORKERS, n_cores)


def _failure() -> EngineFailed:
    return EngineFailed("the engine failed on this request; the server's log has the cause")


def _deliver(news: Sequence[tuple[Job, Event]]) -> None:
    for job, event in news:
        job.events.put_nowait(event)
