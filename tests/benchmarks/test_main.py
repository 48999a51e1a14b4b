"""The command line of all benchmarks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import record
from benchmarks.__main__ import PROGRAMS, main


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_benchmark_tells_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert "--results DIR" in capsys.readouterr().out


def test_the_gpus_benchmark_needs_no_server() -> None:
    """A machine with a GPU to measure need not have what `serve` needs."""
    code = "import sys, benchmarks.gpu; print([name for name in ('fastapi', 'websockets') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=record.ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_no_benchmark_is_a_mistake_that_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["nothing"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert all(name in said for name in PROGRAMS)
