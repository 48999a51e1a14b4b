"""People who speak live to a server, at the pace of speech."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

from benchmarks.simultaneous import Emission
from benchmarks.traffic.talk import CHUNK_S
from compress.errors import RecipeError
from serve.live.policies import Policy
from serve.live.route import LIVE


@dataclass(frozen=True)
class Heard:
    """What one speaker's listeners read, and how long after the last word all of it was there, in seconds."""

    emissions: tuple[Emission, ...]
    behind_s: float


async def speak(url: str, model: str, policy: Policy, language: str, chunks: Sequence[str]) -> Heard:
    """Sends chunks as they would be spoken, reads what comes, and waits for the end of it.

    Raises:
        RecipeError: the server reports an error, or cuts the speaker off.
    """
    address = f"{url.replace('http', 'ws', 1)}{LIVE}?{urlencode({'model': model, 'policy': policy})}"
    async with connect(address) as socket:
        update = {"type": "session.update", "session": {"audio": {"output": {"language": language}}}}
        await socket.send(json.dumps(update))
        started = asyncio.get_running_loop().time()
        sending = asyncio.create_task(_send(socket, chunks, started))
        try:
            emissions = [emission async for emission in _read(socket, started)]
        except ConnectionClosedError as error:
            raise RecipeError(f"the server cut a speaker off: {error}") from error
        finally:
            sending.cancel()
        return Heard(tuple(emissions), asyncio.get_running_loop().time() - started - len(chunks) * CHUNK_S)


async def _send(socket: ClientConnection, chunks: Sequence[str], started: float) -> None:
    for number, chunk in enumerate(chunks, 1):
        spoken = started + number * CHUNK_S
        await asyncio.sleep(spoken - asyncio.get_running_loop().time())
        await socket.send(json.dumps({"type": "session.input_audio_buffer.append", "audio": chunk}))
    await socket.send(json.dumps({"type": "session.close"}))


async def _read(socket: ClientConnection, started: float) -> AsyncIterator[Emission]:
    async for message in socket:
        event = json.loads(message)
        if event["type"] == "error":
            raise RecipeError(f"the server says: {event['error']['message']}")
        if event["type"] == "session.output_transcript.delta":
            came_s = asyncio.get_running_loop().time() - started
            yield Emission(event["delta"], event["elapsed_ms"] / 1000, came_s)
