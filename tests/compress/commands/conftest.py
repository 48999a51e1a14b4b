"""The command line in this process, and a recipe of seconds to give it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import Qwen2AudioProcessor

from compress.__main__ import main
from compress.commands.console import console
from tests.compress import toy_pipeline

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `python -m compress …`: exit status, standard output, standard error."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["compress", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        # made when it was first imported, maybe under another width
        monkeypatch.setattr(console, "width", 200)
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return command


@pytest.fixture(scope="session")
def toy(processor: Qwen2AudioProcessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe; the model that it names is `narrow` beside it."""
    return toy_pipeline.write(tmp_path_factory.mktemp("toy"), processor)
