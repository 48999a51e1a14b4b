"""What benchmarks on the pocket corpus need."""

from __future__ import annotations

import pytest

from compress.errors import KompaktError
from compress.pocket import speech


@pytest.fixture
def synthesisers() -> None:
    """What the search split is spoken with."""
    try:
        speech.check_installed()
    except KompaktError as error:
        pytest.skip(str(error))
