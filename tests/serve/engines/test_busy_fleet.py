"""A front whose servers are busy: who is asked, and how long a clip waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import httpx

from serve.engines.fleet import Wait
from serve.engines.remote_engine import RemoteEngine
from tests.serve.engines.fleets import counted, fleet, scripted, serving, text, until
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, running, settings_for_tests, wait_until
from tests.serve.sockets import PATH
from tests.serve.speech import sentences, talk, wav

ONE_PLACE: Final = {"max_requests": 1, "max_batch": 1, "max_sessions": 1}


@contextmanager
def occupied(server: Server, engine: ScriptedTranslator, clip: Path) -> Iterator[None]:
    """Another client has the server's only place."""
    engine.may_speak.clear()
    with ExitStack() as stack:
        other = threading.Thread(target=httpx.post, args=[server.url + PATH], kwargs=scripted(clip))
        other.start()
        stack.callback(other.join, PATIENCE_S)
        stack.callback(engine.may_speak.set)
        wait_until(lambda: engine.n_running == 1)
        yield


def test_a_busy_server_is_left_alone_for_as_long_as_it_says(loop: asyncio.Runner, clip: Path) -> None:
    engines = [ScriptedTranslator("Hallo"), ScriptedTranslator("Hallo")]

    async def scenario(servers: list[Server]) -> None:
        async with fleet(servers) as engine:
            began = time.monotonic()
            for _ in range(6):
                assert await text(engine, clip) == "Hallo"
            n_rests = int(time.monotonic() - began)  # of a second each
            assert 1 <= counted(engine, "refused")[servers[0].url] <= 1 + n_rests
            assert counted(engine, "ok") == {servers[1].url: 6}

    with serving(*engines, **ONE_PLACE) as servers, occupied(servers[0], engines[0], clip):
        loop.run(scenario(servers))


def test_when_all_are_busy_a_clip_waits(loop: asyncio.Runner, clip: Path) -> None:
    busy = ScriptedTranslator("Hallo")

    async def scenario(server: Server) -> None:
        async with fleet([server]) as engine:
            task = asyncio.create_task(text(engine, clip))
            await until(lambda: counted(engine, "refused"))
            busy.may_speak.set()
            assert await task == "Hallo"

    with serving(busy, **ONE_PLACE) as (server,), occupied(server, busy, clip):
        loop.run(scenario(server))


def test_when_all_are_busy_for_too_long_the_client_may_come_back(clip: Path) -> None:
    busy = ScriptedTranslator("Hallo")
    with (
        serving(busy, **ONE_PLACE) as (server,),
        occupied(server, busy, clip),
        running(settings_for_tests(), RemoteEngine([server.url], "", PATIENCE_S, 0.2)) as front,
    ):
        answer = httpx.post(front.url + PATH, **scripted(clip))
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert answer.headers["retry-after"] == "1"
        assert httpx.get(f"{front.url}/readyz").status_code == 200, "busy is not unready"
        assert front.metric("st_remote_requests_total", outcome="refused") == 1


def test_a_recording_that_has_begun_waits_for_its_turn_however_busy_they_are(clips: list[Path]) -> None:
    data = wav(talk(sentences(clips[:2]), 1)[0])
    slow = ScriptedTranslator("Hallo")
    slow.pause_s = 1.0  # longer than the front's patience
    with (
        serving(slow, **ONE_PLACE) as (server,),
        running(settings_for_tests(), RemoteEngine([server.url], "", PATIENCE_S, 0.2)) as front,
    ):
        answer = httpx.post(
            front.url + PATH, files={"file": data}, data={"model": "scripted"}, timeout=PATIENCE_S
        ).raise_for_status()
        assert answer.json()["text"] == "Hallo Hallo"
        assert front.metric("st_remote_requests_total", outcome="refused") >= 1, "it had to wait"


def test_what_a_patient_clip_waits_for_busy_servers_does_not_count() -> None:
    patient, other = Wait(0.2, patient=True), Wait(0.2, patient=False)
    time.sleep(0.25)
    assert other.is_over(busy=True)
    assert not patient.is_over(busy=True)
    assert not patient.is_over(busy=False), "they have just gone away"
    time.sleep(0.25)
    assert patient.is_over(busy=False)
