"""What benchmarks on the pocket corpus need."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress import model
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import KompaktError
from compress.pocket import speech
from tests.compress import babbler


@pytest.fixture
def synthesisers() -> None:
    """What the search split is spoken with."""
    try:
        speech.check_installed()
    except KompaktError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is searched in seconds: five layers, of which the inner three are candidates."""
    processor = Checkpoint.open(POCKET).load_processor()
    directory: Path = tmp_path_factory.mktemp("random") / "babbler"
    model.save(babbler.build(processor, seed=0), processor, directory)
    return directory
