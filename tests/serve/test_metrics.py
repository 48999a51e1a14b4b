"""What Prometheus reads, from a server that has served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from serve.errors import EngineFailed
from tests.serve.servers import PATIENCE_S, ScriptedTranslator, Server, form, running, settings_for_tests, wait_until

PATH = "/v1/audio/translations"
# name without suffix → type and labels
CONTRACT: Final[dict[str, tuple[str, set[str]]]] = {
    "st_requests": ("counter", {"endpoint", "target_language", "model", "outcome"}),
    "st_audio_input_seconds": ("counter", set()),
    "st_request_duration_seconds": ("histogram", set()),
    "st_time_to_first_text_seconds": ("histogram", set()),
    "st_decode_seconds": ("histogram", set()),
    "st_queue_wait_seconds": ("histogram", set()),
    "st_realtime_factor": ("histogram", set()),
    "st_inflight_requests": ("gauge", set()),
    "st_rejections": ("counter", {"reason"}),
    "st_ws_sessions_active": ("gauge", set()),
    "st_live_lag_seconds": ("histogram", set()),
    "st_ready": ("gauge", set()),
    "st_draining": ("gauge", set()),
    "st_build_info": ("gauge", {"version"}),
}


@pytest.fixture(scope="module")
def served(clip: Path, junk: Path) -> Iterator[Server]:
    """A server after a success, a client's mistake and a failure of its own, which is draining now."""
    engine = ScriptedTranslator("Hallo")
    with running(settings_for_tests(), engine) as server:
        for file in (clip, junk):
            httpx.post(server.url + PATH, timeout=PATIENCE_S, **form(file, model="scripted"))
        engine.script = (EngineFailed("the engine failed"),)
        httpx.post(server.url + PATH, timeout=PATIENCE_S, **form(clip, model="scripted"))
        wait_until(lambda: server.metric("st_requests_total") == 3)
        yield server


@pytest.fixture(scope="module")
def families(served: Server) -> dict[str, Metric]:
    text = httpx.get(f"{served.url}/metrics").text
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_names_types_and_labels_are_the_contract(families: dict[str, Metric]) -> None:
    ours = {name: family for name, family in families.items() if name.startswith("st_")}
    assert ours.keys() == CONTRACT.keys()
    for name, (kind, labels) in CONTRACT.items():
        assert ours[name].type == kind, name
        assert ours[name].documentation, name
        for sample in ours[name].samples:
            assert sample.labels.keys() - {"le"} == labels, name


def test_every_outcome_is_counted_under_its_name(served: Server) -> None:
    for outcome in ("ok", "client_error", "error"):
        assert served.metric("st_requests_total", outcome=outcome, endpoint=PATH) == 1, outcome


def test_times_are_in_seconds_and_of_what_was_served(families: dict[str, Metric], clip: Path) -> None:
    def total(name: str) -> float:
        return sum(sample.value for sample in families[name].samples if sample.name.endswith(("_sum", "_total")))

    audio_s = total("st_audio_input_seconds")
    assert 2 < audio_s < 20, "twice a sentence"
    assert 0 < total("st_request_duration_seconds") < PATIENCE_S
    factor = total("st_request_duration_seconds") / (audio_s / 2)
    assert total("st_realtime_factor") == pytest.approx(factor, rel=0.01)


def test_memory_and_open_files_are_told_too(families: dict[str, Metric]) -> None:
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6
    assert families["process_open_fds"].samples[0].value > 3


def test_ready_follows_the_engine() -> None:
    engine = ScriptedTranslator("Hallo")
    engine.may_start.clear()
    with running(settings_for_tests(), engine, ready=False) as server:
        assert server.metric("st_ready") == 0
        engine.may_start.set()
        wait_until(lambda: server.metric("st_ready") == 1)
