"""Servers in processes of their own, started as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.serve.servers import PATIENCE_S

ROOT = Path(__file__).parents[2]


@contextmanager
def started(
    *arguments: str | Path, env: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process that has said that it is ready, and its address; `env` goes on top of this process's own."""
    command = [sys.executable, "-m", "serve", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            line = next(line for line in process.stdout if "ready at http://127.0.0.1:" in line)
            yield process, line.split("ready at ")[1].split()[0]
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            finally:
                process.kill()
