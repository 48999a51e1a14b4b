"""Every error's HTTP status and OpenAI shape, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from compress.errors import (
    AudioError,
    AudioTooLong,
    CorruptAudio,
    EmptyAudio,
    KompaktError,
    LanguageError,
    UnsupportedAudio,
)
from serve.errors import (
    EngineFailed,
    InvalidField,
    NotReady,
    QueueFull,
    Unauthorised,
    UnknownModel,
    UploadStalled,
    UploadTooLarge,
)

Outcome = Literal["ok", "client_error", "rejected", "cancelled", "timeout", "error"]

RETRY_AFTER_S: Final = 1

# error class → status, OpenAI type, parameter, code; the first match wins
_MAP: Final[tuple[tuple[type[Exception], int, str, str | None, str], ...]] = (
    (EmptyAudio, 400, "invalid_request_error", "file", "empty_audio"),
    (UnsupportedAudio, 415, "invalid_request_error", "file", "unsupported_audio"),
    (CorruptAudio, 400, "invalid_request_error", "file", "corrupt_audio"),
    (AudioTooLong, 400, "invalid_request_error", "file", "audio_too_long"),
    (AudioError, 400, "invalid_request_error", "file", "invalid_audio"),
    (LanguageError, 400, "invalid_request_error", "to_language", "unsupported_language"),
    (UploadTooLarge, 413, "invalid_request_error", "file", "upload_too_large"),
    (UploadStalled, 408, "invalid_request_error", "file", "upload_stalled"),
    (UnknownModel, 404, "invalid_request_error", "model", "model_not_found"),
    (QueueFull, 429, "rate_limit_error", None, "queue_full"),
    (EngineFailed, 500, "server_error", None, "engine_failed"),
    (TimeoutError, 504, "server_error", None, "timeout"),
)
_TIMED_OUT: Final = "the request took longer than the server allows"
_INTERNAL: Final = "the server made a mistake; its log has the cause under this request's X-Request-Id"


@dataclass(frozen=True)
class Problem:
    """An error as the client sees it."""

    status: int
    type: str
    message: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {…}}`, OpenAI's shape."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def outcome(self) -> Outcome:
        """The label under which the request is counted."""
        if self.status in (429, 503):
            return "rejected"
        if self.status in (408, 504):
            return "timeout"
        return "client_error" if self.status < 500 else "error"

    def response(self) -> JSONResponse:
        """The problem as a response."""
        return JSONResponse(self.body, self.status, self.headers)


def problem(error: Exception) -> Problem:
    """Maps an error; one that no user can cause becomes a 500 that says nothing of its cause."""
    if isinstance(error, InvalidField):
        return Problem(400, "invalid_request_error", str(error), error.field, "invalid_field")
    if isinstance(error, NotReady):
        return Problem(503, "server_error", str(error), code=error.reason, headers=_retry_after())
    if isinstance(error, Unauthorised):
        code = "invalid_api_key" if error.given else "missing_api_key"
        headers = {"WWW-Authenticate": error.challenge}
        return Problem(401, "invalid_request_error", str(error), code=code, headers=headers)
    if isinstance(error, HTTPException):
        kind = "invalid_request_error" if error.status_code < 500 else "server_error"
        return Problem(error.status_code, kind, error.detail, headers=dict(error.headers or {}))
    for error_class, status, kind, param, code in _MAP:
        if isinstance(error, error_class):
            message = str(error) if isinstance(error, KompaktError) else _TIMED_OUT
            return Problem(status, kind, message, param, code, _retry_after() if status == 429 else {})
    return Problem(500, "server_error", _INTERNAL, code="internal_error")


def _retry_after() -> dict[str, str]:
    # The standard header knows whole seconds only; OpenAI's clients prefer the second one.
    return {"Retry-After": str(RETRY_AFTER_S), "retry-after-ms": str(RETRY_AFTER_S * 1000)}


CONNECTIONS_FULL: Final = Problem(
    503,
    "server_error",
    "as many connections are open as the server holds; try again in a moment",
    code="connections_full",
    headers=_retry_after(),
)
