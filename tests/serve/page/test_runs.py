from __future__ import annotations

import asyncio
from pathlib import Path

from serve.client import Client
from serve.page.runs import Run, follow
from tests.serve.language import assert_german
from tests.serve.servers import Server, wait_until


async def over(client: Client, recording: Path) -> Run:
    """A run at its end."""
    *_, last = [run async for run in follow(client, recording, "pocket", "de")]
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
        runs = follow(Client(server.url), talk, "pocket", "de")
        assert (await anext(runs)).text
        await runs.aclose()

    loop.run(scenario())
    wait_until(lambda: server.engine.n_running == 0 and server.metric("st_inflight_requests") == 0)
