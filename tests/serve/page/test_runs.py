from __future__ import annotations

import asyncio
from pathlib import Path

from serve.client import Client
from serve.page.runs import Run, Turn, Turns, follow
from tests.serve.language import assert_german
from tests.serve.servers import Server, wait_until


async def over(client: Client, recording: Path) -> Run:
    """A run at its end."""
    *_, last = [run async for run in follow(Turn(), client, recording, "pocket", "de")]
    return last


def test_a_run_ends_with_a_text(loop: asyncio.Runner, server: Server, clip: Path) -> None:
    run = loop.run(over(Client(server.url), clip))
    assert run.error is None
    assert run.ended is not None
    assert run.text == run.ended.text
    assert_german(run.text)


def test_a_run_ends_with_what_went_wrong(loop: asyncio.Runner, server: Server, junk: Path, tmp_path: Path) -> None:
    for recording, words in ((junk, "not an audio file"), (tmp_path / "gone.wav", "not kept here any more")):
        run = loop.run(over(Client(server.url), recording))
        assert run.ended is None
        assert words in str(run.error)


def test_who_looks_away_cancels_the_run(loop: asyncio.Runner, server: Server, talk: Path) -> None:
    async def scenario() -> None:
        runs = follow(Turn(), Client(server.url), talk, "pocket", "de")
        assert (await anext(runs)).text
        await runs.aclose()

    loop.run(scenario())
    wait_until(lambda: server.engine.n_running == 0 and server.metric("st_inflight_requests") == 0)


def test_who_asks_again_stops_what_runs(loop: asyncio.Runner, server: Server, clip: Path, talk: Path) -> None:
    turns = Turns()

    async def translate(recording: Path, began: asyncio.Event) -> Run:
        async with turns.take("reader") as turn:
            last = Run()
            async for last in follow(turn, Client(server.url), recording, "pocket", "de"):
                if last.text:
                    began.set()
            return last

    async def scenario() -> list[Run]:
        began = asyncio.Event()
        first = asyncio.create_task(translate(talk, began))
        await began.wait()
        others = [asyncio.create_task(translate(clip, began)) for _ in range(3)]
        return await asyncio.gather(first, *others)

    first, *skipped, last = loop.run(scenario())
    assert first.stopped
    assert first.text
    assert all(run.stopped for run in skipped)
    assert last.ended is not None
    wait_until(lambda: server.engine.n_running == 0 and server.metric("st_inflight_requests") == 0)


def test_a_turn_can_be_stopped_while_it_pauses(loop: asyncio.Runner) -> None:
    async def scenario() -> tuple[bool, bool]:
        turns = Turns()
        async with turns.take("reader") as turn:
            went_on = await turn.pause(0.01)
            turns.stop("another reader")
            turns.stop("reader")
            return went_on, await turn.pause(60)

    assert loop.run(scenario()) == (True, False)
