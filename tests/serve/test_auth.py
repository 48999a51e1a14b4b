"""Keys: who has one is served, on every route; who has none sees the probes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from serve.auth import OPEN, Keys, read_keys
from tests.serve.page.test_uploads import ask, upload
from tests.serve.processes import ROOT, started
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, form, running, settings_for_tests

PATH = "/v1/audio/translations"
LIVE = "/v1/realtime/translations?model=scripted"
KEY = "sk-kompakt-0123456789"
OTHER_KEY = "sk-kompakt-of-a-colleague"
# all routes of the application with its page, as `METHOD path`
ROUTES = """
from serve.app import create_app
from serve.settings import Settings
from tests.serve.servers import ScriptedTranslator

def walk(routes, above=""):
    for route in routes:
        path = above + getattr(route, "path", "")
        for method in getattr(route, "methods", None) or ["GET"]:
            print(method, path or "/")
        walk(getattr(route, "routes", []), path)

walk(create_app(Settings(), ScriptedTranslator()).routes)
"""


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    with running(settings_for_tests(api_keys=(KEY, OTHER_KEY)), ScriptedTranslator("Hallo")) as server:
        yield server


@pytest.fixture(scope="module")
def locked_page() -> Iterator[str]:
    """A server with the page that asks for a key."""
    with started("--max-new-tokens", "64", env={"SERVE_API_KEYS": KEY}) as (_, url):
        yield url


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def routes() -> list[tuple[str, str]]:
    """Method and path of every route, of the page's too."""
    command = [sys.executable, "-W", "ignore", "-c", ROUTES]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    pairs = [line.split(" ", 1) for line in dict.fromkeys(done.stdout.splitlines())]
    return [(method, path.replace("{", "").replace(":path}", "").replace("}", "")) for method, path in pairs]


def test_every_route_but_the_probes_asks_for_a_key(locked_page: str) -> None:
    known = routes()
    paths = {path for _, path in known}
    assert {PATH, "/v1/models", "/metrics", "/openapi.json", *OPEN} <= paths
    assert any("upload" in path for path in paths), "the page's routes are among them"
    with httpx.Client(base_url=locked_page) as http:
        found = {(method, path): http.request(method, path) for method, path in known}
    for (_, path), response in found.items():
        if path in OPEN:
            assert response.status_code in (200, 405), path
        else:
            assert response.status_code == 401, path
            scheme = "Bearer" if path.startswith(("/v1/", "/metrics")) else "Basic"
            assert response.headers["www-authenticate"].startswith(f'{scheme} realm="Kompakt"')


@pytest.mark.parametrize("path", ["//livez", "/livez/", "/livez/../metrics", "/LIVEZ", "/readyz;/metrics", "/nowhere"])
def test_there_is_no_way_around(locked: Server, path: str) -> None:
    assert httpx.get(locked.url + path).status_code == 401


def test_each_key_opens(locked: Server, clip: Path) -> None:
    for key in (KEY, OTHER_KEY):
        response = httpx.post(locked.url + PATH, headers=bearer(key), **form(clip, model="scripted"))
        assert response.status_code == 200
        assert httpx.get(f"{locked.url}/metrics", headers=bearer(key)).status_code == 200


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_api_key"),
        ("", "missing_api_key"),
        (KEY, "missing_api_key"),
        (f"Basic {KEY}", "missing_api_key"),
        ("Bearer", "invalid_api_key"),
        (f"Bearer {KEY}x", "invalid_api_key"),
        (f"Bearer {KEY[:-1]}", "invalid_api_key"),
        (f"Bearer {KEY.upper()}", "invalid_api_key"),
        (f"Bearer {KEY},{OTHER_KEY}", "invalid_api_key"),
        ("Bearer schlüssel-schlüssel", "invalid_api_key"),
    ],
)
def test_nothing_else_does(locked: Server, header: str | None, code: str) -> None:
    headers = {} if header is None else {b"Authorization": header.encode()}
    rejected = httpx.get(f"{locked.url}/v1/models", headers=headers)
    assert (rejected.status_code, rejected.json()["error"]["code"]) == (401, code)
    assert KEY not in rejected.text
    assert rejected.headers["x-request-id"]


def test_a_stranger_is_refused_before_the_body_and_counted(locked: Server) -> None:
    def refusals() -> str:
        text = httpx.get(f"{locked.url}/metrics", headers=bearer(KEY)).text
        return next(line for line in text.splitlines() if 'reason="unauthorised"' in line)

    httpx.get(f"{locked.url}/v1/models")
    before = refusals()
    with socket.create_connection(("127.0.0.1", locked.port), PATIENCE_S) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")
    assert refusals() != before


def test_the_official_client_is_told_that_its_key_is_wrong(locked: Server) -> None:
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="sk-wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key=KEY) as client:
        assert [model.id for model in client.models.list()] == ["scripted"]


def status_of_handshake(server: Server, headers: dict[str, str], *protocols: str) -> int:
    """HTTP status of the answer to somebody who wants to speak live."""
    url = f"ws://127.0.0.1:{server.port}{LIVE}"
    try:
        subprotocols = [Subprotocol(name) for name in protocols]
        with connect(url, additional_headers=headers, subprotocols=subprotocols or None):
            return 101
    except InvalidStatus as refusal:
        return int(refusal.response.status_code)


def test_a_live_socket_asks_for_a_key_too(locked: Server) -> None:
    assert status_of_handshake(locked, {}) == 401
    assert status_of_handshake(locked, bearer("sk-wrong")) == 401
    assert status_of_handshake(locked, {}, "realtime", "openai-insecure-api-key.sk-wrong") == 401
    assert status_of_handshake(locked, bearer(KEY)) == 101
    assert status_of_handshake(locked, {"Authorization": f"Basic {b64encode(f':{KEY}'.encode()).decode()}"}) == 101
    assert status_of_handshake(locked, {}, "realtime", f"openai-insecure-api-key.{KEY}") == 101


def test_a_browser_asks_its_reader_for_the_key_of_the_page(locked_page: str, clip: Path) -> None:
    reader = ("anybody", KEY)
    page = httpx.get(locked_page, auth=reader)
    assert "Kompakt: speech translation" in page.text
    assert KEY not in page.text
    answer = ask(locked_page, upload(locked_page, clip, reader), reader)
    assert "k-done" in answer, "the page's own calls have a key"
    assert httpx.get(f"{locked_page}/v1/models", auth=reader).status_code == 401, "no other site may call it"
    assert httpx.get(locked_page, auth=("anybody", "sk-wrong")).status_code == 401
    assert httpx.get(locked_page, headers={"Authorization": "Basic ###"}).status_code == 401


def test_keys_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the team\n{KEY}\n\n  {OTHER_KEY}  \n")
    keys = read_keys(["sk-given-directly-1"], file)
    assert keys == {"sk-given-directly-1", KEY, OTHER_KEY}
    settings = settings_for_tests(api_keys_file=file)
    with running(settings, ScriptedTranslator("Hallo")) as server:
        assert httpx.get(f"{server.url}/v1/models", headers=bearer(OTHER_KEY)).status_code == 200
        assert httpx.get(f"{server.url}/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"# nobody yet\n", "holds no key"), (b"\xff\xfe\x00", "not text"), (b"short\n", "key 1 is not 16 or more ASCII")],
)
def test_a_file_that_cannot_be_meant(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_keys([], file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing cannot be read: No such file"):
        read_keys([], tmp_path / "missing")


def test_keys_are_kept_as_digests() -> None:
    keys = Keys([KEY])
    assert KEY not in json.dumps(vars(keys), default=repr)
    assert keys.accept(KEY)
    assert not keys.accept("")
