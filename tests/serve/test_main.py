"""The command line in processes of its own."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from compress.checkpoint import Checkpoint
from tests.serve.language import assert_german, assert_translations
from tests.serve.processes import ROOT, started
from tests.serve.servers import PATIENCE_S, Server, form, wait_until
from tests.serve.speech import sentences, talk, wav

PATH = "/v1/audio/translations"
N_STREAMS = 20


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


def test_translate_writes_subtitles_of_a_long_recording(clips: list[Path], tmp_path: Path) -> None:
    samples, bounds = talk(sentences(clips) * 3, 0.9)
    recording = tmp_path / "talk.wav"
    recording.write_bytes(wav(samples))
    result = run("translate", recording, "--to", "de", "--format", "srt")
    assert (result.returncode, result.stderr) == (0, "")
    cues = result.stdout.split("\n\n")
    assert len(cues) == len(bounds)
    for number, cue in enumerate(cues, 1):
        index, times, text = cue.strip().split("\n")
        assert (index, times[:3]) == (str(number), "00:")
        assert_german(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["translate", "a.wav", "--to", "fr"], "invalid choice: 'fr'"),
        (["translate", "a.wav", "--to", "de", "--model", "/nowhere"], "no checkpoint directory at /nowhere"),
        (["translate", "a.wav", "b.wav", "--to", "de", "--format", "srt"], "--format srt takes one FILE"),
        (["--model", "/nowhere"], "no checkpoint directory at /nowhere"),
        (["--port", "70000"], "--port (SERVE_PORT)"),
        (["--prot", "8000"], "unrecognized arguments: --prot"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1 port 8000"),
        (["--engine", "remote"], "no remote_url says which server to ask"),
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
    text = run("--help").stdout
    for words in ("translate FILE", "--engine", "--remote-url", "SERVE_REMOTE_API_KEY"):
        assert words in text
    assert "one line of text per file" in run("translate", "--help").stdout


def test_a_front_is_a_server_like_any_other(server: Server, clip: Path) -> None:
    with started("--no-page", "--engine", "remote", "--remote-url", server.url) as (process, url):
        texts = [
            httpx.post(each + PATH, timeout=PATIENCE_S, **form(clip, model="pocket")) for each in (server.url, url)
        ]
        assert texts[0].json()["text"] == texts[1].json()["text"]
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def test_a_front_without_servers_ends_with_1() -> None:
    flags = ("--no-page", "--port", "0", "--timeout-s", "0.1")
    result = run(*flags, "--engine", "remote", "--remote-url", "http://127.0.0.1:9")
    assert result.returncode == 1
    assert "no remote server is ready: http://127.0.0.1:9: the server does not answer" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_with_0(stop: signal.Signals, clip: Path, endless: Checkpoint) -> None:
    flags = ("--no-page", "--model", endless.path, "--max-new-tokens", "100", "--drain-s", str(PATIENCE_S))
    with started(*flags) as (process, url):
        bodies: list[list[str]] = []

        def stream() -> None:
            fields = {"model": "endless", "stream": "true"}
            with httpx.stream("POST", url + PATH, timeout=PATIENCE_S, **form(clip, **fields)) as response:
                bodies.append(list(response.iter_lines()))

        running = [threading.Thread(target=stream) for _ in range(N_STREAMS)]
        for each in running:
            each.start()
        wait_until(lambda: f"st_inflight_requests {N_STREAMS}.0" in httpx.get(f"{url}/metrics").text)
        os.kill(process.pid, stop)
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 503)
        refusal = httpx.post(url + PATH, **form(clip, model="endless"))
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "draining")
        assert "st_draining 1.0" in httpx.get(f"{url}/metrics").text
        for each in running:
            each.join(PATIENCE_S)
        assert [body[-2:] for body in bodies] == [["data: [DONE]", ""]] * N_STREAMS, "what ran was delivered"
        assert process.wait(PATIENCE_S) == 0


def test_a_signal_before_it_serves_ends_it_with_0() -> None:
    """The default would end it too, but not the first process of a container."""
    command = [sys.executable, "-m", "serve", "--no-page", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("loading pocket")
        process.terminate()
        _, complaints = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, complaints) == (0, "")


def test_a_second_signal_does_not_wait(clip: Path, endless: Checkpoint) -> None:
    with started("--no-page", "--model", endless.path, "--max-new-tokens", "4000") as (process, url):
        fields = {"model": "endless", "stream": "true"}
        with httpx.stream("POST", url + PATH, timeout=PATIENCE_S, **form(clip, **fields)) as response:
            lines = response.iter_lines()
            next(lines)
            os.kill(process.pid, signal.SIGTERM)
            wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 503)
            os.kill(process.pid, signal.SIGTERM)
            process.wait(PATIENCE_S)
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)


def test_what_could_run_code_is_refused(endless: Checkpoint, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    shutil.copytree(endless.path, planted)
    (planted / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": "or anything else"}))
    result = run("--no-page", "--port", "0", "--model", planted)
    assert result.returncode == 2
    assert "holds pytorch_model.bin: only safetensors weights are loaded" in result.stderr


def test_an_engine_that_does_not_start_ends_the_server_with_1(endless: Checkpoint, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in endless.path.iterdir():
        (broken / file.name).write_bytes(file.read_bytes() if file.suffix != ".safetensors" else b"nonsense")
    result = run("--no-page", "--port", "0", "--model", broken)
    assert result.returncode == 1
    assert "does not load" in result.stderr
    assert "Traceback" not in result.stderr
