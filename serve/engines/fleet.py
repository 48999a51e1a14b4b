"""The servers behind a front: which of them are fit for work, and which one gets the next clip."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from serve.client import ApiError, Client
from serve.engine import ModelInfo
from serve.engines.replica import Replica, is_refusal
from serve.errors import EngineFailed, NotReady, QueueFull, SettingsError

_CHECK_S: Final = 1.0  # from one question whether a server is ready to the next
_LOOK_S: Final = 0.05  # how often a clip that waits looks for a server

BROKE_OFF: Final = "the servers behind this one failed on this request; the server's log has the cause"
STOPPED: Final = "the engine was stopped before the translation was complete"
_NOBODY: Final = "none of the servers behind this one is ready; try again in a few seconds"
_ALL_BUSY: Final = "all servers behind this one are busy; try again in a moment"


class Wait:
    """A clip's wait for a server, over all its attempts."""

    def __init__(self, most_s: float, *, patient: bool) -> None:
        """Begins to wait.

        Args:
            most_s: how long.
            patient: as of `serve.engine.Request`: while servers are only busy, the wait begins anew.
        """
        self._most_s = most_s
        self._patient = patient
        self.begin()

    def begin(self) -> None:
        """Begins anew: a server has had the clip."""
        self._since = time.monotonic()

    def is_over(self, *, busy: bool) -> bool:
        """Whether it has been too long; busy: a server is ready, but has no place."""
        if busy and self._patient:
            self.begin()
        return time.monotonic() - self._since >= self._most_s


class Fleet:
    """The servers, which must all offer the same models.

    Every second each is asked whether it is ready.  One that is not, or did not answer a clip, is left alone until it
    is; so is one that comes back without one of the models.
    """

    def __init__(self, urls: Sequence[str], key: str, timeout_s: float, patience_s: float) -> None:
        """Notes the servers; `start` asks them.

        Args:
            urls: their addresses, each once.
            key: what they want as bearer; empty: nothing.
            timeout_s: how long they may be silent while they translate.
            patience_s: how long a clip waits for a server that is fit, and none may be ready before that is trouble.
        """
        self._replicas = [Replica(url, Client(url, timeout_s, key=key)) for url in urls]
        self._patience_s = patience_s
        self._names: tuple[str, ...] = ()
        self._n_taken = count(1)
        self._watchers: list[asyncio.Task[None]] = []
        self._closed = False
        self._registry = CollectorRegistry()
        labels = ("server", "outcome")
        self._requests = Counter("st_remote_requests", "Clips given to a server", labels, registry=self._registry)
        self._up = Gauge("st_remote_up", "1 while a server is ready", ("server",), registry=self._registry)

    @property
    def trouble(self) -> str:
        """Why nothing can be translated for now, in words for clients; empty while something can."""
        if any(replica.up for replica in self._replicas):
            return ""
        down_s = time.monotonic() - max(replica.last_up for replica in self._replicas)
        return _NOBODY if down_s > self._patience_s else ""

    async def start(self, timeout_s: float) -> tuple[ModelInfo, ...]:
        """Waits until a server is ready; returns the models.

        Raises:
            EngineFailed: none is ready in time.
            SettingsError: they do not offer the same models, or do not take the key.
        """
        give_up_at = time.monotonic() + timeout_s
        await self._look()
        while not any(replica.up for replica in self._replicas):
            if time.monotonic() >= give_up_at:
                raise EngineFailed(f"no remote server is ready: {self._errors()}")
            await asyncio.sleep(_CHECK_S)
            await self._look()
        models = {model.name: model for replica in self._replicas for model in replica.offered}
        self._names = tuple(models)
        lacks = [(replica.url, replica.lacks(self._names)) for replica in self._replicas if replica.up]
        if wrong := [f"{url} does not offer {', '.join(names)}" for url, names in lacks if names]:
            raise SettingsError(f"the remote servers must offer the same models: {'; '.join(wrong)}")
        self._watchers = [asyncio.create_task(self._watch(replica)) for replica in self._replicas]
        return tuple(models.values())

    def wait(self, *, patient: bool) -> Wait:
        """For a clip that is about to look for its first server."""
        return Wait(self._patience_s, patient=patient)

    async def take(self, avoided: Collection[Replica], wait: Wait) -> Replica:
        """The server for a clip: of those that are fit, the one with the fewest clips in hand; equals take turns.

        Args:
            avoided: those that have failed on this clip.
            wait: the clip's, see `wait`.

        Raises:
            QueueFull: all have been busy for too long.
            NotReady: none is ready.
            EngineFailed: all have failed on it, or the fleet was closed.
        """
        candidates = [replica for replica in self._replicas if replica not in avoided]
        while candidates and not self._closed:
            busy = any(replica.up for replica in candidates)
            if wait.is_over(busy=busy):
                raise QueueFull(_ALL_BUSY) if busy else NotReady("cut_off", _NOBODY)
            if fit := [replica for replica in candidates if replica.fit]:
                chosen = min(fit, key=lambda replica: (replica.n_in_hand, replica.turn))
                chosen.turn = next(self._n_taken)
                return chosen
            await asyncio.sleep(_LOOK_S)
        raise EngineFailed(STOPPED if self._closed else BROKE_OFF)

    @contextmanager
    def in_hand(self, replica: Replica) -> Iterator[None]:
        """While a clip is at a server; counts it, and lets the server's `ApiError` be known to other clips."""
        replica.n_in_hand += 1
        outcome = "cancelled"
        try:
            yield
            outcome = "ok"
        except ApiError as error:
            outcome = "refused" if is_refusal(error) else "failed"
            replica.learn(error)
            raise
        finally:
            replica.n_in_hand -= 1
            self._requests.labels(replica.url, outcome).inc()

    def exposition(self) -> bytes:
        """Metrics in Prometheus' text format."""
        for replica in self._replicas:
            self._up.labels(replica.url).set(replica.up)
        return generate_latest(self._registry)

    async def close(self) -> None:
        """Ends what runs, with an `ApiError`, and all connections."""
        self._closed = True
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for replica in self._replicas:
            await replica.client.close()

    async def _look(self) -> None:
        await asyncio.gather(*(replica.look(self._names) for replica in self._replicas))
        for replica in self._replicas:
            if replica.error is not None and replica.error.status in (401, 403):
                raise SettingsError(f"{replica.url} does not take the key of SERVE_REMOTE_API_KEY: {replica.error}")

    async def _watch(self, replica: Replica) -> None:
        while True:
            await asyncio.sleep(_CHECK_S)
            await replica.look(self._names)

    def _errors(self) -> str:
        return "; ".join(f"{replica.url}: {replica.error}" for replica in self._replicas)
