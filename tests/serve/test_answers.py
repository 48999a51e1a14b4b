"""What clients make of a server's answers: this server's, vLLM's, and those of no such server at all."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from serve.answers import ApiError, Ended, Stream, refusal

# as vLLM 0.32 sends them
CHUNK: Final = {"id": "trsl-1", "object": "translation.chunk", "created": 1, "model": "m"}


def chunk(piece: str) -> str:
    choices = [{"delta": {"content": piece}, "finish_reason": None, "stop_reason": None}]
    return data(**CHUNK, choices=choices, usage=None)


def data(**event: Any) -> str:
    return f"data: {json.dumps(event)}"


def test_a_stream_of_vllm_is_read_to_its_end() -> None:
    stream = Stream()
    usage = {"prompt_tokens": 90, "completion_tokens": 2, "total_tokens": 92}
    lines = [chunk("Hal"), "", chunk("lo"), chunk(""), data(**CHUNK, choices=[], usage=usage)]
    assert [stream.read(line) for line in lines] == ["Hal", None, "lo", None, None]
    assert not stream.ended
    assert stream.read("data: [DONE]") == Ended("Hallo", (), {}, 90, 2)
    assert stream.ended


def test_an_error_event_is_an_error_in_either_shape() -> None:
    for event in (
        {"error": {"message": "the engine failed", "type": "InternalServerError", "code": 500}},
        {"type": "error", "error": {"message": "the engine failed", "code": "engine_failed"}},
    ):
        with pytest.raises(ApiError, match="the engine failed") as caught:
            Stream().read(data(**event))
        assert caught.value.status == 200


@pytest.mark.parametrize(
    "line",
    ["data: <html>", "data: 7", "data: []", "data: {}", 'data: {"error": "no"}', 'data: {"choices": [{"text": "a"}]}'],
)
def test_what_no_such_server_says_is_not_understood(line: str) -> None:
    with pytest.raises(ApiError, match="cannot be understood") as caught:
        Stream().read(line)
    assert caught.value.status == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_a_refusal_says_when_to_come_back(headers: dict[str, str], seconds: float | None) -> None:
    error = refusal(429, "Too Many Requests", headers, b"<html>")
    assert (error.status, error.retry_after_s) == (429, seconds)
    assert str(error) == "the server answered 429 Too Many Requests"
