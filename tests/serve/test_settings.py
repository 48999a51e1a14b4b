from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from compress.checkpoint import POCKET
from serve.errors import SettingsError
from serve.settings import Settings, add_flags, read_settings

URL = "http://10.0.0.7:8000"
REMOTE = ("--engine", "remote", "--remote-url", URL)


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
        if name not in ("api_keys", "remote_api_key"):
            assert f"--{name.replace('_', '-')}" in text
            assert field.description


def test_keys_are_no_flag_but_help_names_their_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    for flag, variable in (("--api-keys ", "SERVE_API_KEYS"), ("--remote-api-key ", "SERVE_REMOTE_API_KEY")):
        assert flag not in parser.format_help()
        assert variable in parser.format_help()
    monkeypatch.setenv("SERVE_API_KEYS", "sk-0123456789abcdef, sk-fedcba9876543210")
    settings = parse()
    assert settings.keys == {"sk-0123456789abcdef", "sk-fedcba9876543210"}
    assert "0123456789" not in repr(settings)


@pytest.mark.parametrize("keys", ["hunter2", "sk-0123456789abcdef,", "sk-0123456789abc def", "schlüssel-0123456789"])
def test_a_key_that_cannot_be_meant_is_not_shown(keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_API_KEYS", keys)
    with pytest.raises(SettingsError, match="is not 16 or more ASCII characters without spaces") as caught:
        parse()
    assert keys.partition(",")[0] not in str(caught.value)


def test_a_file_of_keys_is_read_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        parse("--api-keys-file", str(tmp_path / "missing"))
    file = tmp_path / "keys"
    file.write_text("sk-0123456789abcdef\n")
    assert parse("--api-keys-file", str(file)).keys == {"sk-0123456789abcdef"}


def test_all_contradictions_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse("--max-batch", "9", "--max-requests", "8", "--max-connections", "7", "--timeout-s", "9000")
    for words in (
        "max_batch is 9 but max_requests only 8: a batch could never fill",
        "max_requests is 8 but max_connections only 7: they could never all come",
        "timeout_s is 9000 but max_request_s only 7200: it would never be up",
    ):
        assert words in str(caught.value)


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
        (["--idle-s", "-1"], "greater than 0"),
        (["--max-request-s", "inf"], "finite number"),
        (["--log-format", "xml"], "'text' or 'json'"),
        (["--tracing", "--max-connections", "0"], "greater than or equal to 1"),
        (["--engine", "onnx"], "'transformers', 'vllm' or 'remote'"),
        (["--engine", "vllm", "--device", "cuda"], "device is for the transformers engine, but engine is vllm"),
        (["--vllm-args", '{"seed": 1}'], "vllm_args is for the vllm engine, but engine is transformers"),
        (["--remote-url", URL], "remote_url is for the remote engine, but engine is transformers"),
        (["--engine", "remote"], "no remote_url says which server to ask"),
        ([*REMOTE, "--model", "a"], "model is for the remote servers to say: leave it out"),
        ([*REMOTE, "--max-new-tokens", "9"], "max_new_tokens is for the remote servers to say: leave it out"),
        ([*REMOTE, "--remote-url", URL], f"{URL} is given more than once"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        parse(*arguments)


@pytest.mark.parametrize(
    "url",
    ["10.0.0.7:8000", "ftp://a", "http://", "http://user:key@a", "http://a/?x=1", "http://a:0", "http://[::1", ""],
)
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"{url!r} is not the address of a server, such as http")):
        parse("--engine", "remote", "--remote-url", url)


def test_remote_servers_from_flags_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse(*REMOTE, "--remote-url", "https://b/prefix").remote_url == (URL, "https://b/prefix")
    monkeypatch.setenv("SERVE_ENGINE", "remote")
    monkeypatch.setenv("SERVE_REMOTE_URL", f"{URL}, http://[::1]:8001")
    assert parse().remote_url == (URL, "http://[::1]:8001")


def test_the_key_of_the_remote_servers_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_REMOTE_API_KEY", "geheim-0123456789")
    with pytest.raises(SettingsError, match="remote_api_key is for the remote engine, but engine is transformers"):
        parse()
    assert "geheim" not in repr(parse(*REMOTE))
    monkeypatch.setenv("SERVE_REMOTE_API_KEY", "schlüssel-0123456789")
    with pytest.raises(SettingsError, match="SERVE_REMOTE_API_KEY: it is not ASCII characters") as caught:
        parse(*REMOTE)
    assert "schlüssel" not in str(caught.value)


@pytest.mark.parametrize(("host", "loopback"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("localhost", "localhost")])
def test_loopback_reaches_the_server_wherever_it_is_bound(host: str, loopback: str) -> None:
    assert parse("--host", host).loopback == loopback
