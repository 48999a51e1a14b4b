"""Several servers behind a front: who gets a clip, and what becomes of it when they fail or go away."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from serve.engines.remote_engine import RemoteEngine
from serve.errors import EngineFailed, NotReady
from serve.messages import delta_event
from tests.serve.engines.fleets import Breaking, breaking, counted, fleet, scripted, serving, text, until
from tests.serve.processes import started
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, form, running, settings_for_tests, wait_until
from tests.serve.sockets import PATH

# --- who gets it ------------------------------------------------------------------------------------------------


def test_servers_take_turns(loop: asyncio.Runner, clip: Path) -> None:
    async def scenario(servers: list[Server]) -> Counter[str]:
        async with fleet(servers) as engine:
            for _ in range(6):
                assert await text(engine, clip) == "Hallo"
            return counted(engine, "ok")

    with serving(*[ScriptedTranslator("Hallo") for _ in range(3)]) as servers:
        assert loop.run(scenario(servers)) == {server.url: 2 for server in servers}


def test_the_one_with_the_fewest_in_hand_gets_the_next(loop: asyncio.Runner, clip: Path) -> None:
    engines = [ScriptedTranslator("Hallo") for _ in range(2)]
    for each in engines:
        each.may_speak.clear()

    async def scenario(servers: list[Server]) -> None:
        async with fleet(servers) as engine:
            tasks = [asyncio.create_task(text(engine, clip)) for _ in range(6)]
            await until(lambda: [each.n_running for each in engines] == [3, 3])
            engines[1].may_speak.set()
            await until(lambda: counted(engine, "ok") == {servers[1].url: 3})
            tasks += [asyncio.create_task(text(engine, clip)) for _ in range(2)]
            await asyncio.gather(*tasks[-2:])
            assert counted(engine, "ok") == {servers[1].url: 5}
            engines[0].may_speak.set()
            assert await asyncio.gather(*tasks) == ["Hallo"] * 8

    with serving(*engines) as servers:
        loop.run(scenario(servers))


# --- failing ----------------------------------------------------------------------------------------------------


def test_a_server_that_hangs_up_before_any_text_costs_nothing(loop: asyncio.Runner, clip: Path) -> None:
    bad = Breaking()

    async def scenario(good: Server) -> None:
        async with fleet([bad, good]) as engine:
            assert [await text(engine, clip) for _ in range(4)] == ["Hallo"] * 4
            assert counted(engine, "failed") == {bad.url: bad.n_asked}
            assert counted(engine, "ok") == {good.url: 4}

    with serving(ScriptedTranslator("Hallo")) as (good,), breaking(bad):
        loop.run(scenario(good))
    assert bad.n_asked >= 1


def test_a_server_that_fails_before_any_text_costs_nothing(loop: asyncio.Runner, clip: Path) -> None:
    async def scenario(servers: list[Server]) -> None:
        async with fleet(servers) as engine:
            assert [await text(engine, clip) for _ in range(4)] == ["Hallo"] * 4
            assert counted(engine, "failed")[servers[0].url] >= 1

    with serving(ScriptedTranslator(EngineFailed("the engine failed")), ScriptedTranslator("Hallo")) as servers:
        loop.run(scenario(servers))


def test_where_a_proxy_has_lost_a_server_the_same_address_is_asked_again(loop: asyncio.Runner, clip: Path) -> None:
    proxy = Breaking("Internal Server Error", 500)

    async def scenario() -> None:
        async with fleet([proxy]) as engine:
            with pytest.raises(EngineFailed, match="the servers behind this one failed on this request"):
                await text(engine, clip)
            assert counted(engine, "failed") == {proxy.url: proxy.n_asked}

    with breaking(proxy):
        loop.run(scenario())
    assert proxy.n_asked == 3


def test_where_all_fail_none_is_asked_twice(loop: asyncio.Runner, clip: Path) -> None:
    async def scenario(servers: list[Server]) -> None:
        async with fleet(servers) as engine:
            with pytest.raises(EngineFailed, match="the servers behind this one failed on this request"):
                await text(engine, clip)
            assert counted(engine, "failed") == {server.url: 1 for server in servers}
            assert not engine.trouble, "it may be the clip's fault"

    with serving(*[ScriptedTranslator(EngineFailed("the engine failed")) for _ in range(2)]) as servers:
        loop.run(scenario(servers))


def test_a_clip_that_breaks_three_servers_is_not_given_to_a_fourth(loop: asyncio.Runner, clip: Path) -> None:
    servers = [Breaking() for _ in range(4)]

    async def scenario() -> None:
        async with fleet(servers) as engine:
            with pytest.raises(EngineFailed):
                await text(engine, clip)

    with breaking(*servers):
        loop.run(scenario())
    assert sum(server.n_asked for server in servers) == 3


@pytest.mark.parametrize("ending", ["", "data: {}\n\n", "data: nonsense\n\n"])
def test_what_has_begun_is_not_begun_anew(ending: str, clip: Path) -> None:
    servers = [Breaking(delta_event("Guten ") + ending) for _ in range(2)]
    engine = RemoteEngine([server.url for server in servers], "", PATIENCE_S)
    with breaking(*servers), running(settings_for_tests(), engine) as front:
        body = httpx.post(front.url + PATH, **scripted(clip, stream="true")).text
        delta, trouble = [json.loads(line.removeprefix("data: ")) for line in body.split("\n\n") if line]
        assert delta["delta"] == "Guten "
        assert (trouble["type"], trouble["error"]["code"]) == ("error", "engine_failed")
        assert sum(server.n_asked for server in servers) == 1
        answer = httpx.post(front.url + PATH, **scripted(clip))
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_failed")


# --- going away -------------------------------------------------------------------------------------------------


def test_a_clip_does_not_wait_long_for_a_server_that_is_away(loop: asyncio.Runner, clip: Path) -> None:
    server = Breaking()

    async def scenario(leave: Callable[[], None]) -> None:
        async with fleet([server], patience_s=0.2) as engine:
            await asyncio.to_thread(leave)
            with pytest.raises(NotReady, match="none of the servers behind this one is ready"):
                await text(engine, clip)

    with ExitStack() as stack:
        stack.enter_context(breaking(server))
        loop.run(scenario(stack.close))


def test_a_front_without_servers_is_not_ready_but_lives_until_they_are_back(
    clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(running(settings_for_tests(), ScriptedTranslator("Hallo")))
        engine = RemoteEngine([server.url], "", PATIENCE_S, 0.2)
        with running(settings_for_tests(), engine) as front, httpx.Client(base_url=front.url) as http:
            stack.close()
            wait_until(lambda: http.get("/readyz").status_code == 503)
            for refusal in (http.get("/readyz"), http.get("/health"), http.post(PATH, **scripted(clip))):
                assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "cut_off")
                assert refusal.headers["retry-after"] == "1"
                assert str(server.port) not in refusal.text, "where the servers are is nobody's business"
            assert http.get("/livez").status_code == 200
            assert engine.alive
            assert (front.metric("st_ready"), front.metric("st_remote_up")) == (0, 0)
            other = ScriptedTranslator("Unfug")
            other.name = "other"
            with running(settings_for_tests(), other, port=server.port):
                wait_until(lambda: "it does not offer scripted" in caplog.text)
                assert http.get("/readyz").status_code == 503
            with running(settings_for_tests(), ScriptedTranslator("Da"), port=server.port):
                wait_until(lambda: http.get("/readyz").status_code == 200)
                assert http.post(PATH, **scripted(clip)).json()["text"] == "Da"


@pytest.mark.slow
def test_when_a_server_is_killed_only_texts_that_had_begun_break_off(clips: list[Path]) -> None:
    bodies: list[tuple[Path, str]] = []
    speaking = threading.Event()

    def stream(url: str, clip: Path) -> None:
        fields = {"model": "pocket", "stream": "true"}
        with httpx.stream("POST", url + PATH, timeout=PATIENCE_S, **form(clip, **fields)) as response:
            body = ""
            for piece in response.iter_text():
                body += piece
                speaking.set()
        bodies.append((clip, body))

    one_by_one = ("--no-page", "--max-batch", "1")
    with started(*one_by_one) as (dying, url), started(*one_by_one) as (_, other):
        engine = RemoteEngine([url, other], "", PATIENCE_S)
        with running(settings_for_tests(), engine) as front:
            clients = [threading.Thread(target=stream, args=(front.url, clip)) for clip in clips * 4]
            for client in clients:
                client.start()
            assert speaking.wait(PATIENCE_S)
            wait_until(lambda: engine.n_running == len(clients) or bool(bodies))
            dying.kill()
            for client in clients:
                client.join(PATIENCE_S)
            assert counted(engine, "failed")[url] > 1, "it had some to translate"
    assert len(bodies) == len(clients)
    broken = [body for _, body in bodies if not body.endswith("data: [DONE]\n\n")]
    assert all("transcript.text.delta" in body and '"engine_failed"' in body for body in broken)
    assert len(broken) <= 2, "it worked on one at a time, and may just have ended another"
    whole = {(clip, _ending(body)) for clip, body in bodies if body not in broken}
    assert len(whole) == len(clips), "whoever translates, the text is the same"


def _ending(body: str) -> str:
    """The text that a stream ends with."""
    done = next(event for event in body.split("\n\n") if '"transcript.text.done"' in event)
    return str(json.loads(done.removeprefix("data: "))["text"])
