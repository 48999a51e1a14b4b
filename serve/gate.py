"""Whether new work is taken, and how much of it at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from serve.errors import NotReady, QueueFull
from serve.metrics import Metrics

State = Literal["loading", "ready", "draining", "failed"]


class Gate:
    """Lets requests in while the server is ready, its engine is alive and not in trouble, and there is room.

    Attributes:
        state: `loading` until `open`; `draining` once no new work is taken; `failed` when there never will be any.
        n_inflight: requests that are in.
        failure: what made it fail, in words.
    """

    def __init__(
        self, max_requests: int, metrics: Metrics, alive: Callable[[], bool], trouble: Callable[[], str]
    ) -> None:
        self.state: State = "loading"
        self.n_inflight = 0
        self.failure = ""
        self._max_requests = max_requests
        self._metrics = metrics
        self._alive = alive
        self._trouble = trouble
        self._opened = False
        metrics.watch(lambda: self.state == "ready" and self._alive() and not self._trouble())

    def open(self) -> None:
        """The engine is loaded and warm."""
        self._opened = True
        if self.state == "loading":
            self.state = "ready"

    def drain(self) -> None:
        """No new work from here on; what is in may finish."""
        if self.state != "failed":
            self.state = "draining"
        self._metrics.draining.set(1)

    def fail(self, message: str) -> None:
        """There is no engine to work with."""
        self.state, self.failure = "failed", message

    def check(self) -> None:
        """Raises `NotReady` unless new work is taken."""
        self.check_alive()
        if self.state == "loading":
            raise NotReady("loading", "the model is still loading; try again in a few seconds")
        if self.state == "draining":
            raise NotReady("draining", "the server is shutting down and takes no new requests")
        if trouble := self._trouble():
            raise NotReady("cut_off", trouble)

    def notice_death(self) -> None:
        """Fails if the engine has died."""
        if self._opened and self.state != "failed" and not self._alive():
            self.fail("the engine is not running any more")

    def check_alive(self) -> None:
        """Raises `NotReady` once there is nothing left to wait for: the engine did not start, or has died."""
        self.notice_death()
        if self.state == "failed":
            raise NotReady("failed", "the engine is not running; the server's log has the cause")

    @contextmanager
    def slot(self) -> Iterator[None]:
        """A place among the requests in progress.

        Raises:
            NotReady, QueueFull: there is none.
        """
        self.check()
        if self.n_inflight >= self._max_requests:
            raise QueueFull(f"all {self._max_requests} places for requests are taken; try again in a moment")
        self.n_inflight += 1
        self._metrics.inflight.set(self.n_inflight)
        try:
            yield
        finally:
            self.n_inflight -= 1
            self._metrics.inflight.set(self.n_inflight)
