from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serve.client import ApiError, Client, Ended
from tests.serve.language import assert_chinese
from tests.serve.servers import Server, wait_until


async def collect(client: Client, audio: bytes, language: str = "de") -> list[str | Ended]:
    return [piece async for piece in client.translate(audio, "pocket", language)]


def test_streams_pieces_then_the_end(loop: asyncio.Runner, server: Server, clip: Path) -> None:
    *pieces, end = loop.run(collect(Client(server.url), clip.read_bytes(), "zh"))
    assert isinstance(end, Ended)
    assert end.text == "".join(piece for piece in pieces if isinstance(piece, str))
    assert_chinese(end.text)
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
