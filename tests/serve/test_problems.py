from __future__ import annotations

import pytest
from starlette.exceptions import HTTPException

from compress import errors as of_compress
from compress.errors import KompaktError
from serve import errors as of_serve
from serve.problems import problem

NOT_OVER_HTTP = {"KompaktError", "CheckpointError", "RecipeError", "ServeError", "SettingsError"}


def request_errors() -> list[type[KompaktError]]:
    found = {
        value
        for module in (of_compress, of_serve)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, KompaktError) and name not in NOT_OVER_HTTP
    }
    return sorted(found, key=lambda each: each.__name__)


def make(error_class: type[KompaktError]) -> KompaktError:
    if error_class is of_serve.InvalidField:
        return of_serve.InvalidField("model", "words")
    if error_class is of_serve.Unauthorised:
        return of_serve.Unauthorised("Bearer", "words", given=False)
    if error_class is of_serve.NotReady:
        return of_serve.NotReady("loading", "words")
    return error_class("words")


@pytest.mark.parametrize("error_class", request_errors())
def test_every_error_of_a_request_has_its_own_answer(error_class: type[KompaktError]) -> None:
    answer = problem(make(error_class))
    assert answer.code != "internal_error"
    assert answer.message == "words"
    assert ("Retry-After" in answer.headers) == (answer.status in (429, 503))


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, "client_error"),
        (401, "client_error"),
        (408, "timeout"),
        (413, "client_error"),
        (429, "rejected"),
        (503, "rejected"),
        (504, "timeout"),
        (500, "error"),
    ],
)
def test_outcomes(status: int, outcome: str) -> None:
    assert problem(HTTPException(status, "words")).outcome == outcome


def test_a_mistake_of_ours_keeps_its_cause_to_itself() -> None:
    answer = problem(ValueError("secret"))
    assert (answer.status, answer.code) == (500, "internal_error")
    assert "secret" not in answer.message
