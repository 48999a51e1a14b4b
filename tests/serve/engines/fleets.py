"""Servers behind a front that answer what they are told to, or break, and what the front has counted of them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from compress.audio import decode
from serve.engine import Request, Result
from serve.engines.remote_engine import RemoteEngine
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, form, running, settings_for_tests


class Breaking(ThreadingHTTPServer):
    """A server that is ready, but hangs up on every clip once it has said so much, under this status."""

    def __init__(self, said: str = "", status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.said = said
        self.status = status
        self.n_asked = 0
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Breaking

    def do_GET(self) -> None:
        self._answer(json.dumps({"data": [{"id": "scripted"}]}))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.n_asked += 1
        if self.server.said:
            self._answer(self.server.said, self.server.status)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: str, status: int = 200) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())


@contextmanager
def breaking(*servers: Breaking) -> Iterator[None]:
    """They run."""
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join(PATIENCE_S)
            server.server_close()


@contextmanager
def serving(*engines: ScriptedTranslator, **values: object) -> Iterator[list[Server]]:
    """A server for each of the engines, all with these settings."""
    with ExitStack() as servers:
        yield [servers.enter_context(running(settings_for_tests(**values), engine)) for engine in engines]


@asynccontextmanager
async def fleet(servers: Sequence[Server | Breaking], patience_s: float = PATIENCE_S) -> AsyncIterator[RemoteEngine]:
    """An engine over the servers."""
    engine = RemoteEngine([server.url for server in servers], "", PATIENCE_S, patience_s)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


async def text(engine: RemoteEngine, clip: Path) -> str:
    """A translation by the scripted model."""
    *pieces, result = [event async for event in engine.translate(Request("scripted", decode(clip), "de"))]
    assert isinstance(result, Result)
    assert result.text == "".join(map(str, pieces))
    return result.text


def scripted(clip: Path, **fields: str) -> dict[str, Any]:
    """Arguments of httpx that have the scripted model translate a clip."""
    return {"timeout": PATIENCE_S, **form(clip, model="scripted", **fields)}


def counted(engine: RemoteEngine, outcome: str) -> Counter[str]:
    """How many clips ended so, by server."""
    found: Counter[str] = Counter()
    for line in engine.exposition().decode().splitlines():
        if line.startswith("st_remote_requests_total") and f'outcome="{outcome}"' in line:
            found[line.split('server="')[1].partition('"')[0]] += int(float(line.rpartition(" ")[2]))
    return found


async def until(condition: Callable[[], Any]) -> None:
    """Waits for what happens in other threads."""
    while not condition():  # noqa: ASYNC110 - threads cannot set an asyncio.Event
        await asyncio.sleep(0.01)
