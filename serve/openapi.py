"""What the OpenAPI document says beyond what the routes' signatures tell."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from serve.form import MULTIPART, TranslationForm
from serve.messages import Translation, VerboseTranslation


class ErrorDetails(BaseModel):
    """An error in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """The body of every answer that is none."""

    error: ErrorDetails


_TEXT: Final = {"schema": {"type": "string"}}
_EVENT: Final = {"schema": {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}}

UNAVAILABLE: Final[dict[int | str, dict[str, Any]]] = {
    503: {"model": Error, "description": "loading, draining, or without an engine; Retry-After says when to come back"},
}
TRANSLATIONS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "the translation, in the format asked for",
        "model": VerboseTranslation | Translation,
        "content": {
            "text/plain": _TEXT,
            "application/x-subrip": _TEXT,
            "text/vtt": _TEXT,
            "text/event-stream": _EVENT,
        },
    },
    **{
        status: {"model": Error, "description": description}
        for status, description in {
            400: "a field or the audio cannot be used",
            401: "no key that the server knows",
            404: "no such model",
            408: "the upload stalled",
            413: "the upload is too large",
            415: "neither a form nor audio",
            429: "too many requests in progress; Retry-After says when to come back",
            500: "the engine or the server failed",
            504: "no progress for too long",
        }.items()
    },
    **UNAVAILABLE,
}


def form() -> dict[str, Any]:
    """The multipart body of a translation."""
    schema = TranslationForm.model_json_schema()
    schema["properties"] = {"file": {"type": "string", "format": "binary"}, **schema["properties"]}
    schema["required"] = ["file", "model"]
    return {"requestBody": {"required": True, "content": {MULTIPART: {"schema": schema}}}}
