"""A small model of COMET's real format, for tests that run where COMET is installed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from compress.comet import ENVIRONMENT

installed: Final = pytest.mark.skipif(
    not (ENVIRONMENT / "bin" / "comet-score").is_file(), reason=f"no COMET in {ENVIRONMENT}: `make comet` installs it"
)


def make(directory: Path, samples: Sequence[Mapping[str, str]]) -> tuple[Path, list[float]]:
    """Makes a checkpoint.

    Args:
        directory: where to.
        samples: `src`, `mt` and `ref` of each sentence that it has to know the words of.

    Returns:
        The checkpoint, and its scores times 100 in 32 bits, one sentence at a time, by COMET's Python interface.
    """
    (directory / "samples.json").write_text(json.dumps(list(samples)), encoding="utf-8")
    done = subprocess.run(
        [ENVIRONMENT / "bin" / "python", "-I", Path(__file__).with_name("comet_checkpoint.py"), directory],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = json.loads((directory / "expected.json").read_text())
    return directory / "checkpoints" / "model.ckpt", [100 * one for one in expected]
