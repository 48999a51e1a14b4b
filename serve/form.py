"""What a client sends with its audio."""

from __future__ import annotations

from typing import BinaryIO, Final, Literal, cast

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from compress.prompt import LANGUAGES
from serve.errors import InvalidField

MULTIPART: Final = "multipart/form-data"


class TranslationForm(BaseModel):
    """The fields of `POST /v1/audio/translations` beside `file`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    to_language: str | None = Field(
        None,
        description=f"target language: {', '.join(LANGUAGES)}; the server has a default",
        json_schema_extra={"enum": [*LANGUAGES, None]},
    )
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt"] = "json"
    stream: bool = Field(False, description="send the text as server-sent events while it is made; json only")
    temperature: float = Field(
        0.0, description="only 0 (greedy decoding) is offered", json_schema_extra={"minimum": 0, "maximum": 0}
    )
    prompt: str = Field("", description="not offered: must be empty", json_schema_extra={"maxLength": 0})
    language: Literal["en"] = Field("en", description="spoken language")
    max_completion_tokens: int | None = Field(
        None, ge=1, description="cut the text of each stretch of speech after this many tokens"
    )
    # Sent by load generators; usage always comes with the last event.
    stream_include_usage: bool = True
    stream_continuous_usage_stats: bool = False

    @field_validator("to_language")
    @classmethod
    def _offered(cls, value: str | None) -> str | None:
        if value is not None and value not in LANGUAGES:
            raise ValueError(f"unsupported target language {value!r}; supported: {', '.join(LANGUAGES)}")
        return value

    @field_validator("temperature")
    @classmethod
    def _greedy(cls, value: float) -> float:
        if value != 0:
            raise ValueError(f"temperature {value:g} is not offered; only 0 (greedy decoding) is")
        return value

    @field_validator("prompt")
    @classmethod
    def _fixed(cls, value: str) -> str:
        if value:
            raise ValueError("a prompt is not offered: the model is asked with the one it was trained on; leave it out")
        return value


async def read_form(request: Request) -> tuple[TranslationForm, BinaryIO]:
    """The fields and the audio of a multipart body.

    Returns:
        The checked fields, and the file, which is the caller's to close.

    Raises:
        InvalidField: a field is missing, unknown or invalid.
        HTTPException: the body is no form.
        UploadTooLarge, UploadStalled: see `limits`.
    """
    if not request.headers.get("content-type", "").startswith(MULTIPART):
        raise HTTPException(415, f"the body must be {MULTIPART}, with the audio in the field 'file'")
    content = await request.form(max_files=1, max_fields=len(TranslationForm.model_fields))
    try:
        parts = dict(content)
        upload = parts.pop("file", None)
        strays = [name for name, part in parts.items() if isinstance(part, UploadFile)]
        if strays:
            raise InvalidField(strays[0], f"the audio belongs in the field 'file', not in {strays[0]!r}")
        form = parse_form(cast("dict[str, str]", parts))
        if not isinstance(upload, UploadFile):
            raise InvalidField("file", "the form field 'file' is missing; send the audio there as a file")
    except InvalidField:
        await content.close()
        raise
    return form, upload.file


def parse_form(fields: dict[str, str]) -> TranslationForm:
    """Checks the text fields of a request.

    Raises:
        InvalidField: names the first field that is wrong, and the valid choices.
    """
    try:
        form = TranslationForm.model_validate(fields)
    except ValidationError as error:
        details = error.errors()[0]
        field = str(details["loc"][0])
        raise InvalidField(field, _in_words(field, details["type"], details["msg"])) from None
    if form.stream and form.response_format != "json":
        raise InvalidField("response_format", "a stream is always json events; leave response_format out, or stream")
    return form


def _in_words(field: str, kind: str, message: str) -> str:
    if kind == "missing":
        return f"the form field {field!r} is missing"
    if kind == "extra_forbidden":
        return f"unknown form field {field!r}; known: file, {', '.join(TranslationForm.model_fields)}"
    return f"{field}: {message.removeprefix('Value error, ')}"
