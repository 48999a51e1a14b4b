"""What an operator can set: one definition for flags, environment variables and their help."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from compress.checkpoint import POCKET
from compress.prompt import LANGUAGES
from serve.auth import read_keys
from serve.errors import SettingsError
from serve.live.policies import Policy
from serve.logs import LogFormat

ENV_PREFIX = "SERVE_"
_SECRET = ("api_keys", "remote_api_key")  # no flags: whoever is on the machine can read them
# a setting, another that must not be less, and why
_ORDERED = (
    ("max_batch", "max_requests", "a batch could never fill"),
    ("max_requests", "max_connections", "they could never all come"),
    ("timeout_s", "max_request_s", "it would never be up"),
)


EngineName = Literal["transformers", "vllm", "remote"]
# settings that only one engine takes
_OWN: dict[str, EngineName] = {
    "device": "transformers",
    "vllm_args": "vllm",
    "remote_url": "remote",
    "remote_api_key": "remote",
}


class Settings(BaseSettings):
    """Settings of the server; a flag wins over its environment variable."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, allow_inf_nan=False
    )

    host: str = Field("127.0.0.1", min_length=1, description="address to bind; 0.0.0.0 opens it to the network")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0 takes a free one")
    model: Annotated[tuple[Path, ...], NoDecode] = Field(
        (POCKET,), min_length=1, description="checkpoint directory; repeat it (environment: commas) to serve several"
    )
    engine: EngineName = Field(
        "transformers", description="transformers, in this process; vllm; or remote, other servers like this one"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda, of the transformers engine")
    vllm_args: str = Field(
        "{}", description='arguments of the vllm engine as a JSON object, such as {"tensor_parallel_size": 2}'
    )
    remote_url: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="server that the remote engine asks, such as http://10.0.0.7:8000; repeat it (environment: "
        f"commas) for several with the same models; {ENV_PREFIX}REMOTE_API_KEY holds the key that they want, if any",
    )
    remote_api_key: SecretStr | None = None
    to_language: str = Field("de", description=f"target language of requests that name none: {', '.join(LANGUAGES)}")
    max_batch: int = Field(8, ge=1, description="clips decoded together")
    max_requests: int = Field(
        64, ge=1, description="requests in progress (uploading, waiting or decoding); further ones get 429"
    )
    max_upload_bytes: int = Field(25_000_000, ge=1024, description="bytes of a request's body; more get 413")
    max_audio_s: float = Field(7200.0, gt=0, description="seconds of audio in a request; more get 400")
    max_new_tokens: int = Field(256, ge=1, le=4096, description="tokens of text per clip at most")
    max_connections: int = Field(512, ge=1, description="open connections; further ones get 503")
    idle_s: float = Field(30.0, gt=0, description="seconds that a client may keep the server waiting for a byte")
    timeout_s: float = Field(
        120.0, gt=0, description="seconds without progress: till the upload is complete, then from text to text"
    )
    max_request_s: float = Field(7200.0, gt=0, description="seconds for a request from its first byte to its last")
    drain_s: float = Field(30.0, ge=0, description="seconds that running requests are given after SIGTERM or Ctrl-C")
    max_sessions: int = Field(16, ge=1, description="live sessions, each one of max_requests; further ones get 429")
    max_session_s: float = Field(3600.0, gt=0, description="seconds that a live session may last")
    live_policy: Policy = Field(
        "segment",
        description="when live text is sent: segment, once a stretch of speech has ended; agreement, also while it "
        "grows, as far as two translations of it agree; a session may ask for the other",
    )
    live_again_s: float = Field(
        1.0, ge=0.25, le=10, description="seconds of new speech between such translations; fewer cost more"
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="sites whose pages may open live sessions beside this server's own, such as https://example.org; "
        "* for all; repeat it (environment: commas)",
    )
    page: bool = Field(True, description="serve the page at /")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    api_keys_file: Path | None = Field(
        None,
        description="file of keys, one a line, one of which every request but the probes must send; "
        f"{ENV_PREFIX}API_KEYS holds them themselves, separated by commas",
    )
    log_format: LogFormat = Field("text", description="text, or json: an object a line")
    tracing: bool = Field(False, description="export OpenTelemetry traces; OTEL_* variables say where to and how")

    @property
    def loopback(self) -> str:
        """The host under which this machine itself reaches the server, as it stands in a URL."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"[{host}]" if ":" in host else host

    @cached_property
    def keys(self) -> frozenset[str]:
        """All keys that are valid; none: nobody is asked for one.

        Raises:
            ValueError: a key can be guessed, or is none, or the file cannot be read.
        """
        return read_keys([key.get_secret_value() for key in self.api_keys], self.api_keys_file)

    @field_validator("model", "api_keys", "allowed_origins", "remote_url", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("remote_url")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if not _is_address(url):
                raise ValueError(f"{url!r} is not the address of a server, such as http://10.0.0.7:8000")
            if value.count(url) > 1:
                raise ValueError(f"{url} is given more than once")
        return value

    @field_validator("remote_api_key")
    @classmethod
    def _sendable(cls, value: SecretStr | None) -> SecretStr | None:
        key = value.get_secret_value() if value else ""
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("it is not ASCII characters without spaces")
        return value

    @field_validator("to_language")
    @classmethod
    def _offered(cls, value: str) -> str:
        if value not in LANGUAGES:
            raise ValueError(f"{value!r} is not offered; choose from {', '.join(LANGUAGES)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wrong = [
            f"{lower} is {getattr(self, lower):g} but {upper} only {getattr(self, upper):g}: {why}"
            for lower, upper, why in _ORDERED
            if getattr(self, lower) > getattr(self, upper)
        ]
        wrong += [
            f"{name} is for the {owner} engine, but engine is {self.engine}"
            for name, owner in _OWN.items()
            if owner != self.engine and getattr(self, name) != type(self).model_fields[name].get_default()
        ]
        if self.engine == "remote" and not self.remote_url:
            wrong.append("engine is remote, but no remote_url says which server to ask")
        wrong += [
            f"engine is remote, so that {name} is for the remote servers to say: leave it out"
            for name in ("model", "max_new_tokens")
            if self.engine == "remote" and name in self.model_fields_set
        ]
        if wrong:
            raise ValueError("\n".join(wrong))
        _ = self.keys  # read now, so that a mistake shows at the start
        return self


def _is_address(url: str) -> bool:
    """Whether a URL names a server and nothing else that would be lost, or shown where it is a secret."""
    try:
        parts = urlsplit(url)
        named = parts.hostname and parts.port != 0
    except ValueError:
        return False
    return bool(named) and parts.scheme in ("http", "https") and not (parts.username or parts.query or parts.fragment)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for every setting that is no secret.

    Values stay text, so that flags and environment are judged by the same rules.
    """
    for name, field in Settings.model_fields.items():
        if name in _SECRET:
            continue
        default = field.get_default()
        options: dict[str, Any] = {"action": "store", "metavar": "N" if field.annotation in (int, float) else "VALUE"}
        if field.annotation is bool:
            options = {"action": argparse.BooleanOptionalAction}
        elif get_origin(field.annotation) is tuple:
            options = {"action": "append", "metavar": "DIR" if name == "model" else "VALUE"}
            default = "the pocket model" if name == "model" else "none"
        elif default is None:
            default = "none"
        variable = f"{ENV_PREFIX}{name.upper()}"
        help_text = f"{field.description} (default: {default}; environment: {variable})"
        parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=help_text, **options)


def read_settings(flags: argparse.Namespace | None = None) -> Settings:
    """Settings from parsed flags (see `add_flags`) over the environment over the defaults.

    Raises:
        SettingsError: unknown variables, invalid values and contradictions, all in one message.
    """
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)
    problems = [f"unknown environment variable {name}; known: {', '.join(sorted(known))}" for name in unknown]
    try:
        settings = Settings(**vars(flags) if flags else {})
    except ValidationError as error:
        problems += [_in_words(details["loc"], details["msg"]) for details in error.errors()]
    else:
        if not problems:
            return settings
    raise SettingsError("\n".join(problems))


def _in_words(location: Sequence[int | str], message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not location:
        return message
    name = str(location[0])
    variable = f"{ENV_PREFIX}{name.upper()}"
    known_as = variable if name in _SECRET else f"--{name.replace('_', '-')} ({variable})"
    return f"{known_as}: {message[:1].lower()}{message[1:]}"
