from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from compress.checkpoint import POCKET
from serve.errors import SettingsError
from serve.settings import Settings, add_flags, read_settings


def parse(*arguments: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return read_settings(parser.parse_args(arguments))


def test_defaults_are_private_and_serve_the_pocket_model() -> None:
    settings = parse()
    assert settings.host == "127.0.0.1"
    assert settings.model == (POCKET,)


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_PORT", "9000")
    monkeypatch.setenv("SERVE_TO_LANGUAGE", "zh")
    settings = parse("--port", "9001")
    assert (settings.port, settings.to_language) == (9001, "zh")


def test_several_models_from_flags_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("--model", "a", "--model", "b").model == (Path("a"), Path("b"))
    monkeypatch.setenv("SERVE_MODEL", "a, b")
    assert parse().model == (Path("a"), Path("b"))


def test_every_setting_has_a_flag_with_help() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    text = parser.format_help()
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description


def test_all_mistakes_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_PROT", "1")
    with pytest.raises(SettingsError) as caught:
        parse("--port", "eighty", "--to-language", "fr")
    for words in ("SERVE_PROT", "--port (SERVE_PORT): input should be", "'fr' is not offered; choose from de, zh"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-batch", "9", "--max-requests", "8"], "max_batch is 9 but max_requests only 8"),
        (["--port", "70000"], "--port"),
        (["--device", "tpu"], "'auto', 'cpu' or 'cuda'"),
        (["--timeout-s", "0"], "greater than 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        parse(*arguments)


@pytest.mark.parametrize(("host", "loopback"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("localhost", "localhost")])
def test_loopback_reaches_the_server_wherever_it_is_bound(host: str, loopback: str) -> None:
    assert parse("--host", host).loopback == loopback
