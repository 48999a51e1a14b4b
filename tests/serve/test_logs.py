from __future__ import annotations

import json
import logging
import sys

import pytest

from serve.logs import JsonFormatter, TextFormatter, request_id


@pytest.fixture(autouse=True)
def _request() -> None:
    request_id.set("req_7")


def record(message: str, *, failed: bool = False, **fields: object) -> logging.LogRecord:
    trouble = None
    if failed:
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            trouble = sys.exc_info()
    made = logging.LogRecord("serve.x", logging.INFO, __file__, 1, message, (), trouble)
    made.fields = fields
    return made


def test_a_line_is_an_object_that_names_its_request() -> None:
    line = json.loads(JsonFormatter().format(record("grün", outcome="ok", total_s=0.5)))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "serve.x",
        "message": "grün",
        "request_id": "req_7",
        "outcome": "ok",
        "total_s": 0.5,
    }


@pytest.mark.parametrize("trick", ["two\nlines", 'a "quoted" word', "\u2028", "\x1b[31m"])
def test_whatever_it_says_it_is_one_line(trick: str) -> None:
    line = JsonFormatter().format(record(trick, failed=True))
    assert len(line.split("\n")) == 1
    content = json.loads(line)
    assert content["message"] == trick
    assert "ZeroDivisionError" in content["exception"]


def test_people_read_time_level_request_and_message() -> None:
    line = TextFormatter().format(record("ok: pocket to de", outcome="ok"))
    assert line.endswith(" INFO req_7 ok: pocket to de")
    request_id.set("")
    assert TextFormatter().format(record("bare")).endswith(" INFO bare")
