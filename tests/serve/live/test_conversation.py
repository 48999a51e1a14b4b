"""What ends a live session, what bounds it, and that nothing of it is left behind."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from compress.checkpoint import Checkpoint
from serve.engines.transformers_engine import TransformersEngine
from serve.errors import EngineFailed
from tests.serve.language import assert_german
from tests.serve.live.speaker import LIVE, speaking, spoken
from tests.serve.processes import started
from tests.serve.servers import ScriptedTranslator, Server, form, running, settings_for_tests, wait_until


def ended(server: Server, outcome: str) -> float:
    return server.metric("st_requests_total", endpoint=LIVE, outcome=outcome)


def idle(server: Server) -> bool:
    nobody = server.metric("st_ws_sessions_active") == server.metric("st_inflight_requests") == 0
    return nobody and server.engine.n_running == 0


@pytest.fixture(scope="module")
def endless_server(endless: Checkpoint) -> Iterator[Server]:
    """A server whose model never ends a text."""
    engine = TransformersEngine([endless], device="cpu", max_batch=4, max_new_tokens=1500)
    with running(settings_for_tests(max_batch=4), engine) as server:
        yield server


def test_a_disconnect_at_any_moment_leaves_nothing_running(endless_server: Server, clip: Path) -> None:
    rng = random.Random(0)
    speech = spoken(clip)
    before = ended(endless_server, "cancelled")
    n_sessions = 8
    for number in range(n_sessions):
        with speaking(endless_server.url, model="endless", policy=rng.choice(["segment", "agreement"])) as speaker:
            if number % 4 == 0:
                speaker.speak(speech)
                speaker.until("session.output_transcript.delta")
            else:
                speaker.speak(speech[: rng.randrange(len(speech))])
            if number % 4 == 1:
                speaker.send("session.close")
            if number % 2:
                speaker.socket.socket.shutdown(socket.SHUT_RDWR)  # without a close frame
    wait_until(lambda: idle(endless_server) and ended(endless_server, "cancelled") == before + n_sessions)


def test_a_client_that_does_not_read_is_given_up(clip: Path) -> None:
    # more than the connection and the client's library hold, and of no use to its compression
    flood = ScriptedTranslator(*(random.Random(i).randbytes(100_000).hex() for i in range(40)))
    with running(settings_for_tests(idle_s=1), flood) as server, speaking(server.url, model="scripted") as speaker:
        speaker.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        speaker.speak(spoken(clip))
        wait_until(lambda: ended(server, "cancelled") == 1 and idle(server))
        client_port = speaker.socket.local_address[1]
        connections = psutil.Process().net_connections("tcp")
        assert client_port in [one.laddr.port for one in connections]
        assert client_port not in [one.raddr.port for one in connections if one.raddr], "the server's end is closed"
        speaker.socket.socket.shutdown(socket.SHUT_RDWR)


def test_a_client_that_is_faster_than_the_engine_has_to_wait(clip: Path) -> None:
    engine = ScriptedTranslator("Hallo.")
    engine.may_speak.clear()
    speech = spoken(clip)
    n_clips = 160  # more than the connection holds
    with running(settings_for_tests(idle_s=1), engine) as server, speaking(server.url, model="scripted") as speaker:
        speaker.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)

        def speak() -> None:
            for _ in range(n_clips):
                speaker.speak(speech)
            speaker.send("session.close")

        speaking_thread = threading.Thread(target=speak)
        speaking_thread.start()
        wait_until(lambda: server.metric("st_audio_input_seconds_total") > 60)
        time.sleep(1.5)  # longer than a client may be silent
        assert server.metric("st_audio_input_seconds_total") < 120
        assert speaking_thread.is_alive(), "it cannot get rid of the rest"
        engine.may_speak.set()
        assert speaker.end() == 1000
        speaking_thread.join()
        assert speaker.text == " ".join(["Hallo."] * n_clips)


def test_a_session_without_audio_is_ended(clip: Path) -> None:
    with running(settings_for_tests(idle_s=0.5), ScriptedTranslator("Hallo.")) as server:
        with speaking(server.url, model="scripted") as speaker:
            speaker.speak(spoken(clip, pause_s=0))
            speaker.send("session.input_audio_buffer.append", audio="")
            assert speaker.end() == 1001
        assert speaker.text == "Hallo.", "what was spoken is delivered"
        (error,) = [event["error"] for event in speaker.of("error")]
        assert error["code"] == "session_idle"
        assert "no audio came for 0.5 s" in error["message"]
        assert speaker.events[-1]["type"] == "session.closed"
        wait_until(lambda: ended(server, "timeout") == 1)


def test_a_session_lasts_so_long_and_no_longer(clip: Path) -> None:
    with running(settings_for_tests(max_session_s=1), ScriptedTranslator("Hallo.")) as server:
        with speaking(server.url, model="scripted") as speaker:
            began = speaker.events[0]["session"]["expires_at"] - 1
            assert time.time() - 5 < began < time.time() + 1
            speaker.speak(spoken(clip, pause_s=0))
            assert speaker.end() == 1001
        assert speaker.text == "Hallo."
        assert [event["error"]["code"] for event in speaker.of("error")] == ["session_expired"]
        wait_until(lambda: ended(server, "timeout") == 1)


def test_one_session_too_many_is_told_to_come_back() -> None:
    with running(settings_for_tests(max_sessions=2), ScriptedTranslator("Hallo.")) as server:
        with speaking(server.url, model="scripted"), speaking(server.url, model="scripted"):
            with pytest.raises(InvalidStatus) as caught, speaking(server.url, model="scripted"):
                pass
            refusal = caught.value.response
            assert (refusal.status_code, refusal.headers["retry-after"]) == (429, "1")
            assert b"all 2 places for live sessions are taken" in (refusal.body or b"")
            assert httpx.get(f"{server.url}/readyz").status_code == 200
        wait_until(lambda: idle(server))
        assert ended(server, "rejected") == server.metric("st_rejections_total", reason="queue_full") == 1
        with speaking(server.url, model="scripted") as speaker:
            assert speaker.close() == 1000


def test_sessions_and_requests_share_the_places(clip: Path) -> None:
    one_place = settings_for_tests(max_batch=1, max_requests=1)
    with running(one_place, ScriptedTranslator("Hallo.")) as server, speaking(server.url, model="scripted"):
        response = httpx.post(f"{server.url}/v1/audio/translations", **form(clip, model="scripted"))
        assert response.status_code == 429


def test_nobody_is_let_in_before_the_model_is_loaded() -> None:
    engine = ScriptedTranslator("Hallo.")
    engine.may_start.clear()
    with running(settings_for_tests(), engine, ready=False) as server:
        with pytest.raises(InvalidStatus) as caught, speaking(server.url, model="scripted"):
            pass
        assert (caught.value.response.status_code, caught.value.response.headers["retry-after"]) == (503, "1")
        engine.may_start.set()


def test_a_translation_that_fails_is_an_error_event_and_the_next_has_its_chance(clip: Path) -> None:
    with running(settings_for_tests(), ScriptedTranslator("Guten ", EngineFailed("the engine failed"))) as server:
        with speaking(server.url, model="scripted") as speaker:
            speaker.speak(spoken(clip))
            assert speaker.until("error")["error"]["code"] == "engine_failed"
            speaker.speak(spoken(clip))
            assert speaker.until("error")["error"]["type"] == "server_error"
            assert speaker.close() == 1000
        assert speaker.text == "Guten  Guten "
        wait_until(lambda: ended(server, "error") == 1)


def test_a_translation_that_stalls_is_too(clip: Path) -> None:
    engine = ScriptedTranslator("Hallo.")
    engine.may_speak.clear()
    with running(settings_for_tests(timeout_s=0.5), engine) as server:
        with speaking(server.url, model="scripted") as speaker:
            speaker.speak(spoken(clip))
            assert speaker.until("error")["error"]["code"] == "timeout"
            assert engine.n_running == 0
            assert speaker.close() == 1000
        wait_until(lambda: ended(server, "timeout") == 1)


def test_a_dead_engine_ends_the_session() -> None:
    engine = ScriptedTranslator("Hallo.")
    with running(settings_for_tests(), engine) as server, speaking(server.url, model="scripted") as speaker:
        engine.alive = False
        assert speaker.end() == 1011


def test_a_mistake_of_ours_tells_nothing_of_its_cause(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(settings_for_tests(), ScriptedTranslator(ZeroDivisionError("secret"))) as server:
        with speaking(server.url, model="scripted") as speaker:
            speaker.speak(spoken(clip))
            assert speaker.end() == 1011
        (error,) = [event["error"] for event in speaker.of("error")]
        assert error["code"] == "internal_error"
        assert "secret" not in str(speaker.events)
        assert "secret" in caplog.text
        wait_until(lambda: ended(server, "error") == 1)


def test_logs_hold_no_text(server: Server, clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="serve")
    with speaking(server.url) as speaker:
        speaker.speak(spoken(clip))
        speaker.close()
    wait_until(lambda: "ok: pocket to de, " in caplog.text)
    assert speaker.text
    assert speaker.text not in caplog.text


def test_a_signal_ends_sessions_with_what_was_spoken(clips: list[Path]) -> None:
    with started("--no-page") as (process, url), speaking(url) as speaker:
        speaker.speak(spoken(clips[1], pause_s=0))
        wait_until(lambda: "st_audio_input_seconds_total 0.0" not in httpx.get(f"{url}/metrics").text)
        os.kill(process.pid, signal.SIGTERM)
        assert speaker.end() == 1001
        assert_german(speaker.text)
        assert speaker.events[-1]["type"] == "session.closed"
        assert process.wait(60) == 0


def test_a_client_that_breaks_the_protocol_is_cut_off(server: Server) -> None:
    with speaking(server.url) as speaker:
        speaker.socket.socket.sendall(b"\xff" * 100)  # no frame
        with pytest.raises(ConnectionClosed):
            speaker.socket.recv(60)
    wait_until(lambda: server.metric("st_ws_sessions_active") == 0)
