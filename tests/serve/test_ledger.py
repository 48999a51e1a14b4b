"""What is left of a request when it has ended."""

from __future__ import annotations

import asyncio
import logging

import pytest

from serve.call import Call
from serve.engine import Timings
from serve.ledger import Ledger
from serve.metrics import Metrics

ENDPOINT = "/v1/audio/translations"


def make() -> Call:
    return Call(ENDPOINT, "req_7", timeout_s=2, max_s=5)


def test_progress_moves_the_deadline_but_never_past_the_end(loop: asyncio.Runner) -> None:
    async def scenario() -> None:
        call = make()
        assert call.deadline == pytest.approx(call.received + 2)
        call.received -= 1
        call.progress()
        assert call.deadline == pytest.approx(call.received + 3, abs=0.5)
        call.received -= 3
        call.progress()
        assert call.deadline == call.received + 5

    loop.run(scenario())


def test_an_ended_request_is_counted_and_logged_with_its_times(
    loop: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="serve")
    metrics = Metrics()

    async def scenario() -> None:
        call = make()
        call.model, call.to_language, call.audio_s, call.first_text_s = "pocket", "zh", 4.0, 0.25
        call.spent("decode", call.received - 0.5)
        for _ in range(2):
            call.translated(Timings(queue_wait_s=0.125, first_text_s=None, decode_s=0.25))
        call.outcome = "timeout"
        Ledger(metrics).close(call)

    loop.run(scenario())
    (line,) = caplog.records
    assert line.message.startswith("timeout: pocket to zh, 4.0 s of audio, 0.")
    fields = vars(line)["fields"]
    assert fields["decode_s"] == pytest.approx(0.5, abs=0.1)
    assert (fields["queue_s"], fields["translate_s"]) == (0.25, 0.5)
    assert (fields["endpoint"], fields["outcome"], fields["first_text_s"]) == (ENDPOINT, "timeout", 0.25)
    labels = {"endpoint": ENDPOINT, "target_language": "zh", "model": "pocket", "outcome": "timeout"}
    assert metrics.registry.get_sample_value("st_requests_total", labels) == 1


def test_what_is_not_known_is_left_out(loop: asyncio.Runner, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="serve")

    async def scenario() -> None:
        Ledger(Metrics()).close(make())

    loop.run(scenario())
    assert caplog.records[0].message.startswith("ok: other to other, no audio, 0.")
    assert vars(caplog.records[0])["fields"].keys() == {"endpoint", "outcome", "model", "to_language", "total_s"}
