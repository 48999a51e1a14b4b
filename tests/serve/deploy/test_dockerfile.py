"""The images' recipe: it finds its sources, its settings are accepted, its health check works."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest

from tests.serve.deploy.conftest import Accept
from tests.serve.deploy.dockerfile import ROOT, STAGES, TARGETS, arguments, environment, is_ignored
from tests.serve.servers import ScriptedTranslator, running, settings_for_tests, wait_until


def copied(stage: str) -> list[str]:
    """Sources from the checkout."""
    commands = [shlex.split(rest) for rest in arguments(stage, "COPY")]
    return [source for words in commands if not words[0].startswith("--from") for source in words[:-1]]


def tracked(*folders: str) -> list[str]:
    command = ["git", "ls-files", "-z", "--", *folders]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return listing.split("\0")[:-1]


def healthy(port: int) -> bool:
    """What the engine of the container would conclude; the command is run as it stands."""
    (check,) = arguments("cuda", "HEALTHCHECK")
    python, *rest = json.loads(check.partition(" CMD ")[2])
    assert python == "python"
    return not subprocess.run(
        [sys.executable, *rest],
        env={"SERVE_PORT": str(port), "http_proxy": "http://127.0.0.1:9"},
        check=False,
        capture_output=True,
    ).returncode


@pytest.mark.parametrize("source", sorted({source for stage in STAGES for source in copied(stage)}))
def test_every_copied_source_is_there_and_is_not_kept_back(source: str) -> None:
    assert (ROOT / source).exists()
    assert not is_ignored(source)


def test_all_that_is_shipped_reaches_the_build_and_nothing_secret_does() -> None:
    shipped = tracked("compress", "serve")
    assert shipped
    assert not [path for path in shipped if is_ignored(path)]
    for secret in (".env", "serve/deploy/.env", "serve/deploy/secrets/api-keys"):
        assert is_ignored(secret)
        assert subprocess.run(["git", "check-ignore", "-q", secret], cwd=ROOT, check=False).returncode == 0
    assert is_ignored("tests/serve/test_main.py")
    assert is_ignored("serve/__pycache__/app.pyc")


def test_what_is_built_without_a_target_is_for_gpus() -> None:
    assert list(STAGES)[-1] == "cuda"
    assert environment("cuda")["SERVE_ENGINE"] == "vllm"


@pytest.mark.parametrize("target", TARGETS)
def test_the_server_accepts_the_images_settings(target: str, accept: Accept) -> None:
    settings = accept(environment(target))
    assert settings.host == "0.0.0.0"
    assert arguments(target, "EXPOSE") == [str(settings.port)]
    assert settings.log_format == "json"


@pytest.mark.parametrize("target", TARGETS)
def test_nobody_runs_as_root(target: str) -> None:
    keyword, user = STAGES[target][-1]
    assert keyword == "USER"
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user), "Kubernetes cannot tell whether a name is root's"


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_written_goes_to_the_two_folders_that_can_be(target: str) -> None:
    folders = [value for name, value in environment(target).items() if "HOME" in name or name.endswith("_DIR")]
    assert folders
    assert all(folder == "/cache" or folder.startswith("/cache/") for folder in folders)


@pytest.mark.parametrize("target", TARGETS)
def test_a_change_of_code_installs_no_dependency_again(target: str) -> None:
    instructions = STAGES[target]
    dependencies = instructions.index(("COPY", f"--from={target}-packages /opt/kompakt /opt/kompakt"))
    code = [place for place, (_, rest) in enumerate(instructions) if "wheel" in rest]
    assert len(code) == 1
    assert code[0] > dependencies
    assert "--no-deps" in instructions[code[0]][1]
    assert len(copied(f"{target}-packages")) == 1, "the lock and nothing else"


def test_the_health_check_tells_ready_from_not() -> None:
    engine = ScriptedTranslator("Hallo")
    engine.may_start.clear()
    with running(settings_for_tests(), engine, ready=False) as server:
        assert not healthy(server.port), "it is loading"
        engine.may_start.set()
        wait_until(lambda: healthy(server.port))
    assert not healthy(server.port), "nobody is there"


def test_the_image_starts_the_server_and_stops_it_as_it_wants_to_be_stopped() -> None:
    for target in TARGETS:
        (entry,) = arguments(target, "ENTRYPOINT")
        assert json.loads(entry) == ["python", "-m", "serve"]
        assert arguments(target, "STOPSIGNAL") == ["SIGTERM"]


def test_the_base_is_named_by_version() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11-\S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
