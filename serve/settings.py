"""What an operator can set: one definition for flags, environment variables and their help."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from compress.checkpoint import POCKET
from compress.prompt import LANGUAGES
from serve.errors import SettingsError

ENV_PREFIX = "SERVE_"


class Settings(BaseSettings):
    """Settings of the server; a flag wins over its environment variable."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)

    host: str = Field("127.0.0.1", min_length=1, description="address to bind; 0.0.0.0 opens it to the network")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0 takes a free one")
    model: Annotated[tuple[Path, ...], NoDecode] = Field(
        (POCKET,), min_length=1, description="checkpoint directory; repeat it (environment: commas) to serve several"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")
    to_language: str = Field("de", description=f"target language of requests that name none: {', '.join(LANGUAGES)}")
    max_batch: int = Field(8, ge=1, description="clips decoded together")
    max_requests: int = Field(
        64, ge=1, description="requests in progress (uploading, waiting or decoding); further ones get 429"
    )
    max_upload_bytes: int = Field(25_000_000, ge=1024, description="bytes of a request's body; more get 413")
    max_new_tokens: int = Field(256, ge=1, le=4096, description="tokens of text per clip at most")
    timeout_s: float = Field(120.0, gt=0, description="seconds for a request from its first byte to its last")
    drain_s: float = Field(30.0, ge=0, description="seconds that running requests are given after SIGTERM or Ctrl-C")
    page: bool = Field(True, description="serve the page at /")

    @property
    def loopback(self) -> str:
        """The host under which this machine itself reaches the server, as it stands in a URL."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"[{host}]" if ":" in host else host

    @field_validator("model", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("to_language")
    @classmethod
    def _offered(cls, value: str) -> str:
        if value not in LANGUAGES:
            raise ValueError(f"{value!r} is not offered; choose from {', '.join(LANGUAGES)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_batch > self.max_requests:
            raise ValueError(
                f"max_batch is {self.max_batch} but max_requests only {self.max_requests}: a batch could never fill"
            )
        return self


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds one flag per setting; values stay text, so that flags and environment are judged by the same rules."""
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        options: dict[str, Any] = {"action": "store", "metavar": "N" if field.annotation in (int, float) else "VALUE"}
        if field.annotation is bool:
            options = {"action": argparse.BooleanOptionalAction}
        elif get_origin(field.annotation) is tuple:
            options = {"action": "append", "metavar": "DIR"}
            default = "the pocket model"
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
    flag = f"--{name.replace('_', '-')}"
    return f"{flag} ({ENV_PREFIX}{name.upper()}): {message[:1].lower()}{message[1:]}"
