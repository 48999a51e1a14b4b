"""What can go wrong between a request and its text, beside what `compress.errors` names.

KompaktError                (compress.errors: audio, language and checkpoint errors live there)
└── ServeError
    ├── SettingsError       a flag or environment variable that cannot be meant
    ├── InvalidField        a form field that is missing, unknown or holds an invalid value
    ├── Unauthorised        no key that the server knows
    ├── UploadTooLarge      more bytes than the server takes
    ├── UploadStalled       a client that stopped sending in the middle
    ├── UnknownModel        a model that is not loaded
    ├── NotReady            loading, draining, dead or cut off: no new work is taken
    ├── QueueFull           as many requests are in progress as the server holds
    └── EngineFailed        the engine gave up on a request
"""

from __future__ import annotations

from typing import Literal

from compress.errors import KompaktError


class ServeError(KompaktError):
    """Base of the errors below; its message is shown to the client as it is."""


class SettingsError(ServeError):
    """A flag or environment variable that cannot be meant."""


class InvalidField(ServeError):  # noqa: N818 - named for what it says, as in compress.errors
    """A form field that is missing, unknown or holds an invalid value; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Unauthorised(ServeError):  # noqa: N818
    """No key that the server knows; `challenge` is what `WWW-Authenticate` says, `given` whether there was a key."""

    def __init__(self, challenge: str, message: str, *, given: bool) -> None:
        super().__init__(message)
        self.challenge = challenge
        self.given = given


class UploadTooLarge(ServeError):  # noqa: N818
    """More bytes than the server takes."""


class UploadStalled(ServeError):  # noqa: N818
    """A client that stopped sending in the middle of its upload."""


class UnknownModel(ServeError):  # noqa: N818
    """A model that is not loaded."""


class NotReady(ServeError):  # noqa: N818
    """No new work is taken; `reason` says why."""

    def __init__(self, reason: Literal["loading", "draining", "failed", "cut_off"], message: str) -> None:
        super().__init__(message)
        self.reason = reason


class QueueFull(ServeError):  # noqa: N818
    """As many requests are in progress as the server holds."""


class EngineFailed(ServeError):  # noqa: N818
    """The engine gave up on a request."""
