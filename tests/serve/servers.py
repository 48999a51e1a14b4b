"""Servers on real sockets, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import httpx

import serve.server
from serve.app import create_app
from serve.engine import ModelInfo, Request, Result, Timings, Translator
from serve.settings import Settings
from serve.tracing import Tracer

PATIENCE_S = 120  # the machine may be busy with something else


@dataclass(frozen=True)
class Server:
    """A running server: its address, what it was made of, and how to ask its metrics."""

    url: str
    port: int
    settings: Settings
    engine: Translator

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of a metric that carry these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        rows = [line for line in lines if line.partition("{")[0].partition(" ")[0] == name]
        return sum(float(row.rpartition(" ")[2]) for row in rows if all(label in row for label in wanted))


@contextmanager
def running(
    settings: Settings, engine: Translator, *, ready: bool = True, tracer: Tracer | None = None, port: int = 0
) -> Iterator[Server]:
    """Serves on a port, a free one if it is 0; waits until it is ready unless told otherwise."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        port = listener.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        app = create_app(settings, engine, url, tracer)
        server = serve.server.Server(app, settings, url)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            if ready:
                wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
            yield Server(url, port, settings, engine)
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for a condition, patiently, and fails if it never holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def settings_for_tests(**values: object) -> Settings:
    """Settings without a page, with the given values on top."""
    return Settings.model_validate({"page": False, **values})


class ScriptedTranslator:
    """A `Translator` that emits what it is told to: text, or an exception that it raises.

    `may_start` and `may_speak` hold it back until they are set; `pause_s` is what it needs for a piece.
    """

    def __init__(self, *script: str | Exception) -> None:
        self.script = script
        self.name = "scripted"
        self.lineage = {"parent": "nobody"}
        self.alive = False
        self.trouble = ""
        self.n_running = 0
        self.pause_s = 0.0
        self.may_start = threading.Event()
        self.may_start.set()
        self.may_speak = threading.Event()
        self.may_speak.set()

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        return (ModelInfo(self.name, self.lineage, 7, 1_700_000_000),)

    async def start(self) -> None:
        await _until(self.may_start)
        self.alive = True

    async def translate(self, request: Request) -> AsyncGenerator[str | Result, None]:
        self.n_running += 1
        try:
            await _until(self.may_speak)
            for piece in self.script:
                if isinstance(piece, Exception):
                    raise piece
                await asyncio.sleep(self.pause_s)
                yield piece
            text = "".join(map(str, self.script))
            yield Result(text, 3, len(self.script), Timings(0.0, 0.0, 0.0))
        finally:
            self.n_running -= 1

    def exposition(self) -> bytes:
        return b""

    async def close(self) -> None:
        self.alive = False


async def _until(event: threading.Event) -> None:
    # An asyncio.Event could not be set from the test's thread.
    while not event.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


class Form(TypedDict):
    """Arguments of httpx that post a form."""

    files: dict[str, tuple[str, bytes]]
    data: dict[str, str]


def form(clip: Path, **fields: str) -> Form:
    """A form with a clip: `httpx.post(url, **form(clip, model="pocket"))`."""
    return Form(files={"file": (clip.name, clip.read_bytes())}, data=fields)
