"""The command line in processes of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from compress.checkpoint import Checkpoint
from tests.serve.language import assert_translations
from tests.serve.processes import ROOT, started
from tests.serve.servers import PATIENCE_S, form, wait_until

PATH = "/v1/audio/translations"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serve", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=PATIENCE_S)


def test_translate_prints_a_line_per_file_and_names_those_that_failed(
    clips: list[Path], junk: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.wav"
    german = run("translate", clips[0], junk, clips[1], missing, "--to", "de")
    assert german.returncode == 1
    assert len(german.stdout.splitlines()) == 2
    first, second = german.stderr.splitlines()
    assert first.startswith(f"{junk}: not an audio file")
    assert second == f"{missing}: No such file or directory"
    chinese = run("translate", clips[0], clips[1], "--to", "zh")
    assert (chinese.returncode, chinese.stderr) == (0, "")
    for pair in zip(german.stdout.splitlines(), chinese.stdout.splitlines(), strict=True):
        assert_translations(*pair)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["translate", "a.wav", "--to", "fr"], "invalid choice: 'fr'"),
        (["translate", "a.wav", "--to", "de", "--model", "/nowhere"], "no checkpoint directory at /nowhere"),
        (["--model", "/nowhere"], "no checkpoint directory at /nowhere"),
        (["--port", "70000"], "--port (SERVE_PORT)"),
        (["--prot", "8000"], "unrecognized arguments: --prot"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1 port 8000"),
    ],
)
def test_mistakes_are_named_and_exit_with_2(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_taken_port_is_named_before_anything_is_loaded() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run("--port", str(port))
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in result.stderr


def test_help_tells_of_both_commands() -> None:
    assert "translate FILE" in run("--help").stdout
    assert "one line of text per file" in run("translate", "--help").stdout


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_with_0(stop: signal.Signals, clip: Path, endless: Checkpoint) -> None:
    with started("--no-page", "--model", endless.path, "--max-new-tokens", "400") as (process, url):
        body: list[str] = []

        def stream() -> None:
            fields = {"model": "endless", "stream": "true"}
            with httpx.stream("POST", url + PATH, timeout=PATIENCE_S, **form(clip, **fields)) as response:
                body.extend(response.iter_lines())

        running = threading.Thread(target=stream)
        running.start()
        wait_until(lambda: "st_inflight_requests 1.0" in httpx.get(f"{url}/metrics").text)
        os.kill(process.pid, stop)
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 503)
        refusal = httpx.post(url + PATH, **form(clip, model="endless"))
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "draining")
        assert "st_draining 1.0" in httpx.get(f"{url}/metrics").text
        running.join(PATIENCE_S)
        assert body[-2:] == ["data: [DONE]", ""], "what ran was delivered"
        assert process.wait(PATIENCE_S) == 0


def test_an_engine_that_does_not_start_ends_the_server_with_1(endless: Checkpoint, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in endless.path.iterdir():
        (broken / file.name).write_bytes(file.read_bytes() if file.suffix != ".safetensors" else b"nonsense")
    result = run("--no-page", "--port", "0", "--model", broken)
    assert result.returncode == 1
    assert "does not load" in result.stderr
    assert "Traceback" not in result.stderr
