"""What the page's own backend reads and keeps, whoever asks it."""

from __future__ import annotations

from pathlib import Path
from secrets import token_hex

import httpx
import pytest

from tests.serve.processes import started
from tests.serve.servers import PATIENCE_S

Reader = tuple[str, str] | None  # what a reader told the browser, if it asked: name and password


def upload(url: str, clip: Path, reader: Reader = None) -> str:
    """Uploads a clip as the page does; returns its path on the server."""
    files = {"files": (clip.name, clip.read_bytes())}
    (path,) = httpx.post(f"{url}/gradio_api/upload", files=files, auth=reader).raise_for_status().json()
    return str(path)


def ask(url: str, path: str, reader: Reader = None) -> str:
    """The answer to a session that the server has never seen, about the file at `path`."""
    session = token_hex(5)
    calls = httpx.get(f"{url}/config", auth=reader).json()["dependencies"]
    (call,) = [call["id"] for call in calls if call["api_name"] == "translate"]
    audio = {"path": path, "meta": {"_type": "gradio.FileData"}}
    content = {"data": [audio, "de", "pocket"], "fn_index": call, "session_hash": session}
    httpx.post(f"{url}/gradio_api/queue/join", json=content, auth=reader).raise_for_status()
    place = f"{url}/gradio_api/queue/data"
    with httpx.stream("GET", place, params={"session_hash": session}, auth=reader, timeout=PATIENCE_S) as answer:
        return next(line for line in answer.iter_lines() if "process_completed" in line)


def test_a_page_that_outlived_its_server_still_works(page_url: str, clip: Path) -> None:
    answer = ask(page_url, upload(page_url, clip))
    assert '"success":true' in answer
    assert "k-done" in answer


@pytest.mark.parametrize("path", ["/etc/passwd", __file__, "http://192.0.2.1/a.wav", "https://192.0.2.1/a.wav"])
def test_the_page_reads_only_what_was_uploaded(page_url: str, path: str) -> None:
    answer = ask(page_url, path)
    assert '"success":false' in answer
    if path.startswith("http"):
        assert "not from an address" in answer


def test_the_page_does_not_read_speech_that_lies_around(page_url: str, clip: Path) -> None:
    assert '"success":false' in ask(page_url, str(clip))


def test_uploads_are_private_and_gone_with_the_server(clip: Path, tmp_path: Path) -> None:
    with started(env={"TMPDIR": str(tmp_path)}) as (_, url):
        path = Path(upload(url, clip))
        (folder,) = tmp_path.glob("kompakt-page-*")
        assert folder in path.parents
        assert folder.stat().st_mode & 0o777 == 0o700
        assert path.is_file()
        many = [("files", (f"{i}.wav", str(i).encode())) for i in range(200)]
        httpx.post(f"{url}/gradio_api/upload", files=many, timeout=PATIENCE_S).raise_for_status()
        refusal = httpx.post(f"{url}/gradio_api/upload", files=many[:1])
        assert (refusal.status_code, refusal.headers["retry-after"]) == (429, "1"), "and no more than fit"
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
