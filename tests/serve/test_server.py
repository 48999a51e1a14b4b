"""The process around the application: what it needs from the machine, and how it ends."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from compress.errors import KompaktError
from serve.errors import EngineFailed, SettingsError
from serve.server import bind, serve
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, form, settings_for_tests, wait_until

PATH = "/v1/audio/translations"


@contextmanager
def served(engine: ScriptedTranslator, endings: list[KompaktError]) -> Iterator[str]:
    """The address of a server that runs as in a process of its own; `endings` gets what it ends with."""
    settings = settings_for_tests(port=0)
    listener = bind(settings)

    def run() -> None:
        try:
            serve(settings, engine, listener)
        except KompaktError as error:
            endings.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    wait_until(lambda: engine.alive)
    try:
        yield url
    finally:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_an_engine_that_dies_takes_the_server_with_it(clip: Path) -> None:
    endings: list[KompaktError] = []
    engine = ScriptedTranslator("Hal", EngineFailed("the engine died"))
    engine.may_speak.clear()
    answers: list[httpx.Response] = []
    with served(engine, endings) as url, httpx.Client(base_url=url) as http:
        wait_until(lambda: http.get("/readyz").status_code == 200)
        stream = {"model": "scripted", "stream": "true"}
        client = threading.Thread(
            target=lambda: answers.append(httpx.post(url + PATH, timeout=PATIENCE_S, **form(clip, **stream)))
        )
        client.start()
        wait_until(lambda: engine.n_running == 1)
        engine.alive = False
        assert http.get("/readyz").status_code == 503
        assert http.get("/livez").status_code == 503
        engine.may_speak.set()
        client.join(PATIENCE_S)
    assert '"engine_failed"' in answers[0].text, "those who waited are told"
    assert [str(error) for error in endings] == ["the engine is not running any more"]


def test_more_connections_than_files_are_refused() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(SettingsError, match=rf"need \d+ open files, but this process may have {hard}: lower them"):
        bind(settings_for_tests(max_connections=hard, port=0))


def test_as_many_files_may_be_open_as_connections_need() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        bind(settings_for_tests(port=0)).close()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
