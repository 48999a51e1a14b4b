"""The page on deployment: what it names exists, and its shell does what it says."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from serve.auth import read_keys
from serve.settings import ENV_PREFIX, Settings
from tests.serve.deploy.dockerfile import ROOT
from tests.serve.deploy.test_compose import COMPOSE, FOLDER

TEXT: Final = (FOLDER / "README.md").read_text(encoding="utf-8")
BLOCKS: Final = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
ALERTS: Final = ROOT / "serve" / "monitoring" / "alerts.yaml"


def shell(script: str, folder: Path) -> str:
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def block(words: str) -> str:
    (found,) = [block for block in BLOCKS if words in block]
    return str(found)


def test_variables_and_flags_are_settings() -> None:
    variables = set(re.findall(rf"{ENV_PREFIX}[A-Z_]+", TEXT))
    assert len(variables) > 8
    assert variables <= {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    flags = set(re.findall(r"`(--[a-z-]+)`", TEXT)) - set(re.findall(r"--[a-z-]+", block("docker run")))
    assert len(flags) > 2
    assert flags <= {f"--{name.replace('_', '-')}" for name in Settings.model_fields} | {"--help"}


def test_metrics_are_told_and_alerts_are_rules(told: set[str]) -> None:
    metrics = set(re.findall(r"\bst_[a-z_]+", TEXT))
    assert len(metrics) > 8
    assert metrics <= told
    rules = {rule["alert"] for rule in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]}
    alerts = set(re.findall(r"\bKompakt[A-Z]\w+", TEXT))
    assert len(alerts) > 4
    assert alerts <= rules


def test_files_are_there() -> None:
    names = set(re.findall(r"[\w./-]+\.(?:yaml|txt)\b", TEXT)) - {"my-keys.yaml"}
    folders = (ROOT, FOLDER, FOLDER / "kubernetes")
    assert not [name for name in names if not any((folder / name).is_file() for folder in folders)]


def test_engine_arguments_are_json_objects() -> None:
    objects = re.findall(r"`(\{\".*?\})`", TEXT)
    assert len(objects) == 3
    assert all(isinstance(json.loads(text), dict) for text in objects)


def test_secrets_are_made_as_they_are_needed(tmp_path: Path) -> None:
    shell(block("/dev/urandom").replace("cd serve/deploy\n", ""), tmp_path)
    made = {f"./secrets/{file.name}" for file in (tmp_path / "secrets").iterdir()}
    assert made == {secret["file"] for secret in COMPOSE["secrets"].values()}
    keys = read_keys([], tmp_path / "secrets" / "api-keys")
    assert len(keys) == 2
    assert (tmp_path / "secrets" / "metrics-key").read_text().strip() in keys
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in (tmp_path / "secrets").iterdir())


def test_alerts_are_wrapped_for_the_operator() -> None:
    rule = yaml.safe_load(shell(block("PrometheusRule").replace("kubectl apply --filename -", "cat"), ROOT))
    assert rule["kind"] == "PrometheusRule"
    assert rule["metadata"]["namespace"] == "kompakt"
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", BLOCKS)
def test_commands_can_be_read_by_a_shell(script: str) -> None:
    assert not subprocess.run(["bash", "-n", "-c", script], check=False, capture_output=True, text=True).stderr
