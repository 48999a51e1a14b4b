"""What the deployment's files are held against: settings, routes, and a live scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute
from prometheus_client.parser import text_string_to_metric_families

from serve.app import create_app
from serve.settings import Settings, read_settings
from tests.serve.servers import ScriptedTranslator, Server, running, settings_for_tests

KEY = "sk-0123456789abcdef"
Accept = Callable[..., Settings]


@pytest.fixture(scope="session")
def scripted() -> Iterator[Server]:
    with running(settings_for_tests(), ScriptedTranslator("Hallo")) as server:
        yield server


@pytest.fixture(scope="session")
def told(scripted: Server) -> set[str]:
    """Names of all metrics, and of their series."""
    families = list(text_string_to_metric_families(httpx.get(f"{scripted.url}/metrics").text))
    suffixes = {"counter": ["_total"], "histogram": ["", "_bucket", "_sum", "_count"], "gauge": [""]}
    return {family.name + suffix for family in families for suffix in suffixes[family.type]}


@pytest.fixture(scope="session")
def paths() -> set[str]:
    """What can be asked with GET."""
    app = create_app(settings_for_tests(), ScriptedTranslator())
    return {route.path for route in app.routes if isinstance(route, APIRoute) and "GET" in route.methods}


@pytest.fixture
def accept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Accept:
    """Reads settings from environments, later ones on top; files of keys are there, as they are on the machine."""

    def read(*environments: Mapping[str, str]) -> Settings:
        keys = tmp_path / "keys"
        keys.write_text(KEY)
        for name, value in {name: value for each in environments for name, value in each.items()}.items():
            if name.startswith("SERVE_"):
                monkeypatch.setenv(name, str(keys) if name.endswith("_FILE") else value)
        return read_settings()

    return read
