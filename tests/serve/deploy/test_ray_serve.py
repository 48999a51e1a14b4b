"""Replicas on a local Ray: the same contract, and what a killed one costs."""

from __future__ import annotations

import asyncio
import importlib
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import httpx
import psutil
import pytest
import yaml

from compress.checkpoint import POCKET
from serve.client import ApiError, Client, Ended
from serve.engines.remote_engine import RemoteEngine
from serve.errors import EngineFailed
from serve.settings import Settings
from tests.serve.deploy.conftest import KEY
from tests.serve.deploy.test_compose import FOLDER
from tests.serve.language import assert_chinese, assert_german
from tests.serve.live.speaker import speaking, spoken
from tests.serve.servers import PATIENCE_S, form, running, settings_for_tests, wait_until

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'kompakt-st[ray]'")
pytest.importorskip("ray.serve", reason="Ray is installed without its Serve: pip install 'kompakt-st[ray]'")

from ray import serve as ray_serve  # noqa: E402 - they may be missing
from ray.serve.schema import ServeDeploySchema  # noqa: E402

from serve.deploy.ray_serve import Replica, Scale, app, deployment, read  # noqa: E402

PATH: Final = "/v1/audio/translations"
N_FRONT: Final = 16
N_DIRECT: Final = 8
ARGS: Final = {"replicas": 2, "cpus": 0.5, "max_batch": 1, "max_new_tokens": 64}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two replicas of the pocket model on a Ray of this test's own; the address of its proxy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # a machine that is busy with something else would keep polite workers from starting, and have others killed
        environment.setenv("RAY_worker_niceness", "0")
        environment.setenv("RAY_memory_monitor_refresh_ms", "0")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
            ray_serve.run(app(ARGS))
            yield f"http://127.0.0.1:{port}"
        finally:
            ray.shutdown()


def replicas() -> list[psutil.Process]:
    """Their processes."""
    mine = psutil.Process().children(recursive=True)
    return [each for each in mine if "ray::ServeReplica" in "".join(each.cmdline())]


def cpu_s(process: psutil.Process) -> float:
    """What it has worked."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def collect(
    client: Client, audio: bytes, language: str = "de", began: asyncio.Event | None = None
) -> tuple[str, str]:
    """The text of a translation and why it broke off, empty if it did not; `began` is set by its first piece."""
    pieces: list[str] = []
    try:
        async for event in client.translate(audio, "pocket", language):
            if isinstance(event, Ended):
                return event.text, ""
            pieces.append(event)
            if began is not None:
                began.set()
    except ApiError as error:
        return "".join(pieces), str(error)
    raise AssertionError("unreachable: without an end there is an error")


# --- what Ray is asked for --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"replica": 2}, "unknown argument replica; known: .*max_replicas.*model.*replicas"),
        ({"replicas": 0, "port": 8001}, "(?s)port is not for replicas: Ray's proxies listen.*replicas: .*greater"),
        ({"replicas": 3, "max_replicas": 2}, "replicas is 3 but max_replicas only 2"),
        ({"page": True}, "page is not for replicas: .*another replica"),
        ({"api_keys": "sk-0123456789abcdef"}, "SERVE_API_KEYS"),
        ({"device": "tpu"}, "--device"),
    ],
)
def test_what_cannot_be_meant_is_said_without_a_traceback(args: dict[str, Any], words: str) -> None:
    with pytest.raises(click.UsageError, match=words):
        app(args)


def test_arguments_become_what_ray_is_asked_for() -> None:
    plain = deployment(*read({}))
    assert (plain.num_replicas, plain.ray_actor_options) == (1, {"num_cpus": 1.0, "num_gpus": 0.0})
    asked = {"replicas": "2", "max_replicas": "4", "engine": "vllm", "cpus": "4", "max_batch": "32", "drain_s": "60"}
    scaled = deployment(*read(asked))
    assert scaled.ray_actor_options == {"num_cpus": 4.0, "num_gpus": 1.0}
    assert scaled.max_ongoing_requests == Settings().max_connections
    assert (scaling := scaled._deployment_config.autoscaling_config) is not None
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (2, 4, 24)
    assert scaled._deployment_config.graceful_shutdown_timeout_s > 60
    assert deployment(*read({"device": "cuda"})).ray_actor_options == {"num_cpus": 1.0, "num_gpus": 1.0}
    assert deployment(*read({"gpus": 0.5})).ray_actor_options == {"num_cpus": 1.0, "num_gpus": 0.5}


def imported(path: str) -> object:
    """What stands behind `module:name`."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def test_the_configuration_is_one_of_rays_and_means_something(tmp_path: Path) -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load((FOLDER / "ray.yaml").read_text(encoding="utf-8")))
    (application,) = config.applications
    assert imported(application.import_path) is app
    key = tmp_path / "key"
    key.write_text(KEY)
    scale, settings = read({**application.args, "api_keys_file": str(key)})
    assert settings.keys == {KEY}
    assert deployment(scale, settings).ray_actor_options == {"num_cpus": 4, "num_gpus": 1}


def test_the_readme_knows_the_arguments() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## Ray$(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(Scale.model_fields)
    (given,) = re.findall(r"^serve run (\S+) (.*)$", section, re.MULTILINE)
    assert imported(given[0]) is app
    assert read(dict(each.split("=") for each in given[1].split()))[0].replicas == 2


# --- one replica, as Ray treats it ------------------------------------------------------------------------------


def test_a_replica_is_healthy_from_when_it_is_ready_until_its_engine_has_died(loop: asyncio.Runner) -> None:
    replica = Replica(settings_for_tests())

    async def scenario() -> None:
        application = replica.__serve_build_asgi_app__()
        async with application.router.lifespan_context(application):
            await replica.check_health()
            await replica.check_health()
            engine = application.state.service.engine
            assert engine.alive
            await engine.close()
            with pytest.raises(EngineFailed, match="the engine is not running any more"):
                await replica.check_health()

    loop.run(scenario())


def test_a_replica_that_cannot_load_says_why(loop: asyncio.Runner, tmp_path: Path) -> None:
    shutil.copytree(POCKET, tmp_path / "broken")
    (weights,) = (tmp_path / "broken").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:100_000])
    replica = Replica(settings_for_tests(model=(tmp_path / "broken",)))

    async def scenario() -> None:
        application = replica.__serve_build_asgi_app__()
        async with application.router.lifespan_context(application):
            await replica.check_health()

    with pytest.raises(EngineFailed, match="does not load"):
        loop.run(scenario())


# --- two of them on a Ray of their own --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_contract_holds_behind_rays_proxy(cluster: str, loop: asyncio.Runner, clip: Path, junk: Path) -> None:
    assert len(replicas()) == 2
    german = httpx.post(cluster + PATH, timeout=PATIENCE_S, **form(clip, model="pocket")).json()["text"]
    assert_german(german)
    client, audio = Client(cluster), clip.read_bytes()
    assert loop.run(collect(client, audio)) == (german, "")
    assert_chinese(loop.run(collect(client, audio, "zh"))[0])
    assert [model["id"] for model in loop.run(client.models())] == ["pocket"]
    assert httpx.get(f"{cluster}/readyz").json() == {"status": "ready"}
    refused = httpx.post(cluster + PATH, timeout=PATIENCE_S, **form(junk, model="pocket"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_audio")


@pytest.mark.slow
def test_live_speech_goes_through_rays_proxy(cluster: str, clip: Path) -> None:
    with speaking(cluster) as speaker:
        speaker.translate_into("de")
        speaker.speak(spoken(clip))
        speaker.close()
    assert_german(speaker.text)


@pytest.mark.slow
def test_when_a_replica_is_killed_only_texts_that_had_begun_break_off(
    cluster: str, loop: asyncio.Runner, clips: list[Path]
) -> None:
    engine = RemoteEngine([cluster], "", PATIENCE_S)
    audios = [clip.read_bytes() for clip in clips]

    async def scenario(front: str) -> list[tuple[str, str]]:
        began = asyncio.Event()
        asking = [collect(Client(front), audios[i % len(clips)], began=began) for i in range(N_FRONT)]
        asking += [collect(Client(cluster, attempts=3), audios[i % len(clips)]) for i in range(N_DIRECT)]
        tasks = [asyncio.create_task(each) for each in asking]
        await began.wait()
        max(replicas(), key=lambda each: cpu_s(each) - spent.get(each.pid, 0.0)).kill()  # Ray need not have been fair
        return await asyncio.gather(*tasks)

    wait_until(lambda: len(replicas()) == 2)
    spent = {each.pid: cpu_s(each) for each in replicas()}
    with running(settings_for_tests(), engine) as front:
        answers = loop.run(scenario(front.url))
        assert front.metric("st_remote_requests_total", outcome="failed") > 1, "it had some to translate"
    broken = [(text, error) for text, error in answers if error]
    assert all(text and ("broke off" in error or "failed on this request" in error) for text, error in broken)
    assert len(broken) <= 2 * ARGS["max_batch"], "it worked on so many at a time, and may just have ended others"
    numbers = [*range(N_FRONT), *range(N_DIRECT)]
    whole = {(i % len(clips), text) for i, (text, error) in zip(numbers, answers, strict=True) if not error}
    assert len(whole) == len(clips), "whoever translates, the text is the same"
