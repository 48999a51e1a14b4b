"""The real server in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from tempfile import TemporaryFile
from typing import IO, Final

import httpx
import psutil

from benchmarks import record
from compress.errors import RecipeError

# the interpreter that has vLLM, see the Makefile
VLLM: Final = record.ROOT / ".venv-vllm" / "bin" / "python"

_READY: Final = "ready at "
_START_S: Final = 300
_STOP_S: Final = 120


@dataclass
class ServerProcess:
    """A server.

    Attributes:
        url: its address.
        process: to ask for memory and open files while it runs.
        exit_code: how ours ended; None while it runs.
        log: what ours logged; complete when it has ended.
    """

    url: str
    process: psutil.Process
    exit_code: int | None = None
    log: str = field(default="", repr=False)


@contextmanager
def serving(model: Path | None, *flags: str, python: Path = Path(sys.executable)) -> Iterator[ServerProcess]:
    """Starts a server without the page on a free port, waits until it is ready, and stops it in order.

    Args:
        model: a checkpoint's directory; None for a front, which has none.
        flags: of `python -m serve`.
        python: of the environment that it runs in.

    Raises:
        RecipeError: it does not start.
    """
    asked = flags if model is None else ("--model", str(model), *flags)
    command = [str(python), "-m", "serve", "--no-page", "--port", "0", *asked]
    # without the settings of a server that is not ours
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SERVE_")}
    with (
        TemporaryFile("w+", encoding="utf-8") as log,
        subprocess.Popen(
            command, cwd=record.ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            ready = next((line for line in process.stdout if _READY in line), None)
            if ready is None:
                raise RecipeError(f"the server did not start: {_read(log).strip()}")
            server = ServerProcess(ready.split(_READY)[1].split()[0], psutil.Process(process.pid))
            yield server
            process.terminate()
            server.exit_code = process.wait(_STOP_S)
            server.log = _read(log)
        finally:
            process.kill()


@contextmanager
def serving_vllm(
    python: Path, model: Path, flags: Sequence[str], environment: Mapping[str, str]
) -> Iterator[ServerProcess]:
    """Starts vLLM's own OpenAI-compatible server on a free port, and waits until it is healthy.

    Args:
        python: of the environment that it runs in.
        model: a checkpoint's directory.
        flags: of `vllm serve`.
        environment: variables to set.

    Raises:
        RecipeError: it does not start.
    """
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    # not the command `vllm`, which the distribution for CPUs does not have
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    with (
        TemporaryFile("w+", encoding="utf-8") as log,
        subprocess.Popen(
            [*command, "--model", str(model), *flags],
            cwd=record.ROOT,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            _wait_until_healthy(url, process, log)
            yield ServerProcess(url, psutil.Process(process.pid))
            process.terminate()
            process.wait(_STOP_S)
        finally:
            process.kill()


@contextmanager
def starting(
    servers: Sequence[AbstractContextManager[ServerProcess]],
) -> Iterator[list[Future[ServerProcess]]]:
    """Starts servers at the same time, as each takes long by itself, and stops them one by one.

    Yields:
        Each server as soon as it is ready, while something else is prepared.  A future raises what its server does,
        such as RecipeError where it does not start; those that do start are stopped.
    """
    with ExitStack() as stack, ThreadPoolExecutor(len(servers)) as pool:

        def start(server: AbstractContextManager[ServerProcess]) -> ServerProcess:
            started = server.__enter__()
            stack.push(server)
            return started

        yield [pool.submit(start, server) for server in servers]


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: IO[str]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(url + "/health", trust_env=False).is_success:
                return
        time.sleep(0.5)
    raise RecipeError(f"vLLM's server did not start: {_read(log).strip()[-3000:]}")


def _read(log: IO[str]) -> str:
    log.seek(0)
    return log.read()
