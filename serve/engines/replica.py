"""One of the servers behind a front, and what is known of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Final

from serve.client import ApiError, Client
from serve.engine import ModelInfo
from serve.model_card import model_info

logger = logging.getLogger(__name__)

_ANSWER_S: Final = 5.0  # that it has to say whether it is ready
_REST_S: Final = 1.0  # that it is left alone when it is busy, if it does not say for how long
_LONGEST_REST_S: Final = 30.0  # whatever it says
_PLACES: Final = 256  # clips at a time, each on a connection
_SPARE: Final = 8  # connections for other questions

_BUSY: Final = 429
_NOT_READY: Final = 503


class Replica:
    """A server.

    Attributes:
        url: its address.
        client: to talk to it with.
        up: it was ready when it was last asked, and nothing has spoken against it since.
        last_up: when it last was, in seconds of the monotonic clock.
        offered: its models, as it said last; none before it was ready for the first time.
        error: why it was not ready when it last was not.
        n_in_hand: clips that it is translating for this process.
        turn: number of the last clip that it was given, of all clips.
    """

    def __init__(self, url: str, client: Client) -> None:
        self.url = url
        self.client = client
        self.up = False
        self.last_up = 0.0
        self.offered: tuple[ModelInfo, ...] = ()
        self.error: ApiError | None = None
        self.n_in_hand = 0
        self.turn = 0
        self._failed_at = 0.0
        self._rests_until = 0.0
        client.keep_connections(_PLACES + _SPARE)

    @property
    def fit(self) -> bool:
        """It may be given a clip now."""
        return self.up and self.n_in_hand < _PLACES and time.monotonic() >= self._rests_until

    def lacks(self, names: Collection[str]) -> list[str]:
        """Which of these models it does not offer."""
        offered = {model.name for model in self.offered}
        return [name for name in names if name not in offered]

    async def look(self, names: Collection[str]) -> None:
        """Finds out whether it is ready and offers these models."""
        asked_at = time.monotonic()
        try:
            self.offered = await self._ask()
            if missing := self.lacks(names):
                raise ApiError(0, f"it does not offer {', '.join(missing)}")
        except ApiError as error:
            self._fail(error)
        else:
            if asked_at >= self._failed_at:
                self._recover()

    def learn(self, error: ApiError) -> None:
        """Draws from what a clip met with what other clips need to know."""
        if error.status == _BUSY:
            rest_s = min(error.retry_after_s or _REST_S, _LONGEST_REST_S)
            self._rests_until = max(self._rests_until, time.monotonic() + rest_s)
        elif error.status == _NOT_READY or error.lost:
            self._fail(error)

    async def _ask(self) -> tuple[ModelInfo, ...]:
        """What it offers.

        Raises:
            ApiError: it is not ready, or offers nothing.
        """
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self.client.check_ready()
                offered = tuple(model_info(card) for card in await self.client.models())
        except TimeoutError:
            raise ApiError(0, f"the server does not answer within {_ANSWER_S:g} s") from None
        except ValueError as error:
            raise ApiError(0, "the server's list of models cannot be understood") from error
        if not offered:
            raise ApiError(0, "the server offers no model")
        return offered

    def _fail(self, error: ApiError) -> None:
        if self.up or str(error) != str(self.error):
            logger.warning("%s is not ready: %s", self.url, error)
        if self.up:
            self.last_up = time.monotonic()
        self.up = False
        self.error = error
        self._failed_at = time.monotonic()

    def _recover(self) -> None:
        if not self.up:
            logger.info("%s is ready", self.url)
        self.up = True


def is_refusal(error: ApiError) -> bool:
    """Whether a server did not even begin: it is busy, or not ready."""
    return error.status in (_BUSY, _NOT_READY)
