"""A client of the live socket, as a program would write it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import soxr
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from compress.audio import SAMPLE_RATE, Samples, decode
from serve.live.pcm import RATE, encode_pcm
from tests.serve.servers import PATIENCE_S

CHUNK_S = 0.2
LIVE = "/v1/realtime/translations"


def spoken(clip: Path, pause_s: float = 1.0) -> Samples:
    """A clip and a pause behind it, shape (n_samples,), at the protocol's rate."""
    samples = soxr.resample(decode(clip), SAMPLE_RATE, RATE)
    return np.concatenate([samples, np.zeros(round(pause_s * RATE), np.float32)])


class Speaker:
    """One session: `socket` is its connection, `events` are those read so far."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []

    def send(self, kind: str, **content: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **content}))

    def translate_into(self, code: str) -> None:
        self.send("session.update", session={"audio": {"output": {"language": code}}})

    def speak(self, samples: Samples) -> None:
        """Sends sound at the protocol's rate, faster than it could be spoken."""
        step = round(CHUNK_S * RATE)
        for at in range(0, len(samples), step):
            self.send("session.input_audio_buffer.append", audio=encode_pcm(samples[at : at + step]))

    def hear(self) -> dict[str, Any]:
        """The next event."""
        self.events.append(json.loads(self.socket.recv(PATIENCE_S)))
        return self.events[-1]

    def until(self, kind: str) -> dict[str, Any]:
        """The next event of a type, with all before it read as well."""
        while self.hear()["type"] != kind:
            pass
        return self.events[-1]

    def end(self) -> int | None:
        """Reads to the end; returns the code that the server closed with."""
        try:
            while True:
                self.hear()
        except ConnectionClosed:
            return self.socket.close_code

    def close(self) -> int | None:
        """Asks for the end, and reads up to it."""
        self.send("session.close")
        return self.end()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def text(self) -> str:
        """Deltas just appended, as the protocol wants it."""
        return "".join(event["delta"] for event in self.of("session.output_transcript.delta"))


@contextmanager
def speaking(url: str, headers: Mapping[str, str] | None = None, **query: str) -> Iterator[Speaker]:
    """A session at a server, for the pocket model unless the query says otherwise; its first event has been read."""
    address = f"{url.replace('http', 'ws', 1)}{LIVE}?{urlencode({'model': 'pocket', **query})}"
    # a client that has not read everything would not see the server's answer to its closing either
    with connect(
        address, additional_headers=headers, open_timeout=PATIENCE_S, close_timeout=0.5, max_size=None
    ) as socket:
        speaker = Speaker(socket)
        assert speaker.hear()["type"] == "session.created"
        yield speaker
