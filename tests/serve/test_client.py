from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import httpx
import psutil
import pytest

from serve.client import ApiError, Client, Ended, Live
from serve.messages import delta_event
from tests.serve.language import assert_chinese, assert_german
from tests.serve.live.speaker import spoken
from tests.serve.servers import ScriptedTranslator, Server, running, settings_for_tests, wait_until

KEY = "sk-kompakt-0123456789"


async def collect(client: Client, audio: bytes, language: str = "de", model: str = "pocket") -> list[str | Ended]:
    return [piece async for piece in client.translate(audio, model, language)]


def test_streams_pieces_then_the_end(loop: asyncio.Runner, server: Server, clip: Path) -> None:
    *pieces, end = loop.run(collect(Client(server.url), clip.read_bytes(), "zh"))
    assert isinstance(end, Ended)
    assert end.text == "".join(piece for piece in pieces if isinstance(piece, str))
    assert_chinese(end.text)
    assert [cue.text for cue in end.cues] == [end.text]
    assert 0 <= end.cues[0].start_s < end.cues[0].end_s
    assert set(end.timings) >= {"audio_s", "time_to_first_text_s", "total_s", "real_time_factor"}


def test_lists_models(loop: asyncio.Runner, server: Server) -> None:
    assert [model["id"] for model in loop.run(Client(server.url).models())] == ["pocket"]


def test_a_refusal_is_the_servers_message(loop: asyncio.Runner, server: Server, junk: Path) -> None:
    with pytest.raises(ApiError, match="supported formats: wav, flac") as caught:
        loop.run(collect(Client(server.url), junk.read_bytes()))
    assert caught.value.status == 415


def test_no_server_is_a_message_too(loop: asyncio.Runner) -> None:
    with pytest.raises(ApiError, match="does not answer"):
        loop.run(Client("http://127.0.0.1:9").models())


def test_closing_the_stream_cancels_the_request(loop: asyncio.Runner, server: Server, clip: Path) -> None:
    audio = clip.read_bytes()

    async def scenario() -> None:
        stream = Client(server.url).translate(audio, "pocket", "de")
        await anext(stream)
        await stream.aclose()

    loop.run(scenario())
    wait_until(lambda: server.engine.n_running == 0 and server.metric("st_inflight_requests") == 0)


def test_a_request_keeps_its_name_and_its_bound(loop: asyncio.Runner) -> None:
    asked: list[httpx.Request] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        await request.aread()
        asked.append(request)
        return httpx.Response(200, text="data: [DONE]\n\n")

    async def scenario() -> None:
        client = Client("http://server", transport=httpx.MockTransport(answer))
        async for _ in client.translate(b"RIFF", "pocket", "de", 7, "req_7"):
            pass

    loop.run(scenario())
    assert asked[0].headers["x-request-id"] == "req_7"
    assert b'name="max_completion_tokens"\r\n\r\n7\r\n' in asked[0].content


def test_a_stream_without_an_end_is_an_error(loop: asyncio.Runner) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=delta_event("Hal")))
    with pytest.raises(ApiError, match="broke off before the end"):
        loop.run(collect(Client("http://server", transport=transport), b"RIFF"))


LOST = httpx.Response(500, text="Internal Server Error")  # of a proxy whose server has died
FAILED = httpx.Response(500, json={"error": {"message": "the engine failed"}})
WHOLE = httpx.Response(200, text=delta_event("Hallo") + "data: [DONE]\n\n")
BROKEN = httpx.Response(200, text=delta_event("Hal"))


@pytest.mark.parametrize(
    ("answers", "n_asked", "words"),
    [
        ([LOST, httpx.ConnectError("refused"), WHOLE], 3, ""),
        ([httpx.Response(502), httpx.Response(200, text=""), WHOLE], 3, ""),
        ([LOST, LOST, LOST, WHOLE], 3, "answered 500 Internal Server Error"),
        ([LOST, BROKEN, WHOLE], 2, "broke off before the end"),
        ([FAILED, WHOLE], 1, "the engine failed"),
        ([httpx.Response(503), WHOLE], 1, "answered 503"),
    ],
)
def test_what_got_lost_before_any_text_is_asked_for_again(
    loop: asyncio.Runner, answers: list[httpx.Response | Exception], n_asked: int, words: str
) -> None:
    bodies: list[bytes] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(await request.aread())
        given = answers[len(bodies) - 1]
        if isinstance(given, Exception):
            raise given
        return httpx.Response(given.status_code, content=given.content)

    async def scenario() -> str:
        client = Client("http://server", transport=httpx.MockTransport(answer), attempts=3)
        *_, end = [event async for event in client.translate(io.BytesIO(b"RIFF of a file"), "pocket", "de")]
        assert isinstance(end, Ended)
        return end.text

    if words:
        with pytest.raises(ApiError, match=words):
            loop.run(scenario())
    else:
        assert loop.run(scenario()) == "Hallo"
    assert len(bodies) == n_asked
    assert all(b"RIFF of a file" in body for body in bodies)


def test_kept_connections_are_shared_and_end_with_the_client(loop: asyncio.Runner, server: Server, clip: Path) -> None:
    audio = clip.read_bytes()
    me = psutil.Process()

    def n_open() -> int:
        return sum(each.status == "ESTABLISHED" and each.raddr[1] == server.port for each in me.net_connections())

    async def scenario() -> None:
        client = Client(server.url)
        client.keep_connections(2)
        for _ in range(3):
            await client.check_ready()
            await client.models()
            await collect(client, audio)
            assert n_open() == 1
        await client.close()

    loop.run(scenario())
    wait_until(lambda: n_open() == 0)


def test_a_caller_who_leaves_with_the_summary_gives_the_connection_back(loop: asyncio.Runner, clip: Path) -> None:
    audio = clip.read_bytes()

    async def ask(client: Client) -> str:
        async with aclosing(client.translate(audio, "scripted", "de")) as events:
            async for event in events:
                if isinstance(event, Ended):
                    return event.text
        raise AssertionError("a stream ends with its summary")

    async def scenario(client: Client) -> list[str]:
        client.keep_connections(1)
        texts = [await ask(client) for _ in range(20)]
        await client.close()
        return texts

    with running(settings_for_tests(), ScriptedTranslator("Hallo")) as server:
        assert loop.run(asyncio.wait_for(scenario(Client(server.url)), 30)) == ["Hallo"] * 20


@pytest.mark.parametrize("n_pauses", range(4))
def test_a_call_that_is_cancelled_twice_hangs_up_all_the_same(loop: asyncio.Runner, clip: Path, n_pauses: int) -> None:
    engine = ScriptedTranslator(*["viel "] * 1000)
    engine.pause_s = 0.1
    audio = clip.read_bytes()

    async def scenario(client: Client) -> None:
        client.keep_connections(2)
        call = asyncio.create_task(collect(client, audio, model="scripted"))
        await until(lambda: engine.n_running == 1)
        call.cancel()
        for _ in range(n_pauses):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        await until(lambda: engine.n_running == 0)
        await client.close()

    with running(settings_for_tests(), engine) as server:
        loop.run(asyncio.wait_for(scenario(Client(server.url)), 30))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - threads cannot set an asyncio.Event
        await asyncio.sleep(0.01)


def n_sessions(server: Server) -> float:
    return server.metric("st_ws_sessions_active")


async def heard(live: Live) -> list[str | ApiError]:
    """Everything that still comes."""
    return [event async for event in live.hear()]


def test_live_speech_becomes_text(loop: asyncio.Runner, server: Server, clips: list[Path]) -> None:
    async def scenario() -> tuple[str, str]:
        live = await Client(server.url).live("pocket", "de", "segment")
        await live.speak(pcm(clips[0]))
        german = await anext(live.hear())
        await live.translate_into("zh")
        await live.speak(pcm(clips[1]))
        await live.finish()
        rest = await heard(live)
        await live.close()
        assert isinstance(german, str)
        return german, "".join(map(str, rest))

    german, rest = loop.run(scenario())
    assert_german(german)
    assert_chinese(rest)
    wait_until(lambda: n_sessions(server) == 0)


def test_a_live_session_that_is_closed_is_cancelled(loop: asyncio.Runner, server: Server, clip: Path) -> None:
    async def scenario() -> None:
        live = await Client(server.url).live("pocket", "de", "agreement")
        await live.speak(pcm(clip))
        await live.close()
        await live.speak(pcm(clip))  # nobody hears it, and nobody minds
        with pytest.raises(ApiError, match="broke off"):
            await heard(live)

    loop.run(scenario())
    wait_until(lambda: n_sessions(server) == 0 and server.engine.n_running == 0)


def test_a_live_session_may_be_refused(loop: asyncio.Runner, server: Server) -> None:
    with pytest.raises(ApiError, match="no model 'other' is loaded") as caught:
        loop.run(Client(server.url).live("other", "de", "segment"))
    assert caught.value.status == 404
    assert caught.value.retry_after_s is None
    with pytest.raises(ApiError, match="does not answer"):
        loop.run(Client("http://127.0.0.1:9").live("pocket", "de", "segment"))


def test_mistakes_in_a_session_are_told_and_survived(loop: asyncio.Runner, server: Server, clip: Path) -> None:
    async def scenario() -> list[str | ApiError]:
        live = await Client(server.url).live("pocket", "fr", "segment")
        await live.speak(pcm(clip))
        await live.finish()
        events = await heard(live)
        await live.close()
        return events

    first, *text = loop.run(scenario())
    assert isinstance(first, ApiError)
    assert "unsupported target language 'fr'" in str(first)
    assert_german("".join(map(str, text)))


def test_a_busy_server_says_when_to_come_back(loop: asyncio.Runner, clip: Path) -> None:
    audio = clip.read_bytes()

    async def scenario(client: Client) -> list[ApiError]:
        live = await client.live("scripted", "de", "segment")
        refusals = []
        for attempt in (client.live("scripted", "de", "segment"), collect(client, audio)):
            with pytest.raises(ApiError) as caught:
                await attempt
            refusals.append(caught.value)
        await live.close()
        return refusals

    settings = settings_for_tests(max_requests=1, max_batch=1, api_keys=(KEY,))
    with running(settings, ScriptedTranslator("Hallo")) as server:
        for refusal in loop.run(scenario(Client(server.url, key=KEY))):
            assert refusal.status == 429
            assert refusal.retry_after_s is not None
            assert refusal.wait_s >= 1
        with pytest.raises(ApiError, match="asks for a key"):
            loop.run(Client(server.url).live("scripted", "de", "segment"))


def pcm(clip: Path) -> bytes:
    """A clip and a pause as the protocol wants them."""
    return (spoken(clip) * 32767).astype("<i2").tobytes()
