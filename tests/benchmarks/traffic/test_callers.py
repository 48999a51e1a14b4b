"""Callers against a real server: what they count, when they call, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.traffic import recordings
from benchmarks.traffic.callers import Bout, calling
from benchmarks.traffic.server_process import serving
from compress.checkpoint import POCKET
from compress.errors import RecipeError

Sent = list[recordings.Recording]


@pytest.fixture(scope="module")
def sent() -> Sent:
    return recordings.single(4)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(POCKET, "--max-requests", "2", "--max-batch", "2") as server:
        yield server.url


async def closed(url: str, sent: Sent, n_clients: int, model: str = "pocket") -> Bout:
    async with calling(url) as callers:
        return await callers.closed_loop(sent, model, n_clients)


def test_a_closed_loop_answers_in_the_order_of_the_calls(url: str, sent: Sent) -> None:
    alone, together = asyncio.run(closed(url, sent, 1)), asyncio.run(closed(url, sent, 2))
    assert [one.text for one in alone.answers] == [one.text for one in together.answers]
    assert all(one.text for one in alone.answers)
    assert all(0 < (one.first_text_s or 0) <= one.total_s for one in alone.answers)
    assert all(one.n_tokens > 1 for one in alone.answers)
    # one after the other
    assert alone.took_s == pytest.approx(sum(one.total_s for one in alone.answers), rel=0.2)
    assert alone.per_s == pytest.approx(4 / alone.took_s)
    assert alone.audio_per_s == pytest.approx(sum(one.seconds for one in sent) / alone.took_s)


def test_an_open_loop_calls_whether_or_not_there_is_an_answer(url: str, sent: Sent) -> None:
    async def all_at_once() -> Bout:
        async with calling(url) as callers:
            return await callers.open_loop(sent, "pocket", per_s=1000)

    bout = asyncio.run(all_at_once())
    # two places
    assert 1 <= len(bout.translated) <= 3
    assert len(bout.answers) == 4
    assert all(one.first_text_s is None for one in bout.answers if one.text is None)


def test_a_call_that_fails_ends_the_measurement(url: str, sent: Sent) -> None:
    with pytest.raises(RecipeError, match="no model 'pockets' is loaded"):
        asyncio.run(closed(url, sent, 2, model="pockets"))
