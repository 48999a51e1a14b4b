"""Other people's benchmarks of servers, run as they are, in environments of their own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa
from pyarrow import parquet

from benchmarks import record
from benchmarks.traffic.callers import PATH
from benchmarks.traffic.recordings import Recording
from compress.checkpoint import Checkpoint
from compress.errors import RecipeError

_PATIENCE_S: Final = 600
_MOST_TOKENS: Final = 120
_VLLM_BENCH: Final = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@dataclass(frozen=True)
class Finding:
    """What a tool says: calls that were answered, answers a second, and its median time to the first text."""

    n_answered: int
    per_s: float
    first_text_s: float


class Tool(Protocol):
    """A benchmark of servers."""

    name: str

    def measure(
        self, url: str, checkpoint: Checkpoint, sent: Sequence[Recording], n_clients: int, folder: Path
    ) -> Finding:
        """Has so many clients send all recordings once, those into one language.

        Args:
            url: of the server.
            checkpoint: that it serves, whose tokenizer a tool may count with.
            sent: what the clients send.
            n_clients: at once.
            folder: for files.

        Raises:
            RecipeError: the tool failed.
        """


def installed(root: Path = record.ROOT) -> Iterator[Tool]:
    """The tools that this checkout has environments for."""
    for environment, tool in ((".venv-vllm", VllmBench), (".venv-guidellm", GuideLLM)):
        python = root / environment / "bin" / "python"
        if python.is_file():
            yield tool(python)


class VllmBench:
    """`vllm bench serve --backend openai-audio`."""

    name = "vllm bench serve"

    def __init__(self, python: Path) -> None:
        self._python = python

    def measure(
        self, url: str, checkpoint: Checkpoint, sent: Sequence[Recording], n_clients: int, folder: Path
    ) -> Finding:
        """See `Tool`."""
        clips = [{"prompt": "-", "audio": str(file)} for file in _files(sent, folder)]
        dataset, result = folder / "vllm-bench.jsonl", folder / "vllm-bench.json"
        dataset.write_text("".join(json.dumps(one) + "\n" for one in clips))
        flags = {
            "backend": "openai-audio",
            "base-url": url,
            "endpoint": PATH,
            "model": checkpoint.name,
            "tokenizer": checkpoint.path,
            "dataset-name": "custom_audio",
            "dataset-path": dataset,
            "custom-output-len": _MOST_TOKENS,
            "num-prompts": len(sent),
            "max-concurrency": n_clients,
            "extra-body": json.dumps({"to_language": sent[0].to_language}),
            "result-filename": result,
        }
        listed = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        # the distribution for CPUs has no `vllm` command
        command = [self._python, "-c", _VLLM_BENCH, *listed, "--save-result", "--disable-shuffle", "--disable-tqdm"]
        _run(self.name, command, folder)
        found = json.loads(result.read_text())
        return finding(self.name, found["completed"], found["request_throughput"], found["median_ttft_ms"])


class GuideLLM:
    """GuideLLM with the request format `/v1/audio/translations`."""

    name = "GuideLLM"

    def __init__(self, python: Path) -> None:
        self._python = python

    def measure(
        self, url: str, checkpoint: Checkpoint, sent: Sequence[Recording], n_clients: int, folder: Path
    ) -> Finding:
        """See `Tool`."""
        dataset, result = folder / "guidellm.parquet", folder / "guidellm.json"
        files = [{"audio": one.audio, "file_name": "recording.wav", "mimetype": "audio/wav"} for one in sent]
        parquet.write_table(pa.Table.from_pylist([{"audio": one} for one in files]), dataset)
        backend = {
            "kind": "openai_http",
            "target": url,
            "model": checkpoint.name,
            "request_format": PATH,
            "extras": {"body": {"to_language": sent[0].to_language}},
        }
        command = [
            *(self._python.with_name("guidellm"), "run", "--disable-console"),
            *("--backend", json.dumps(backend)),
            *("--profile", json.dumps({"kind": "concurrent", "streams": [n_clients]})),
            *("--constraint", json.dumps({"kind": "max_requests", "count": len(sent)})),
            *("--data", json.dumps({"kind": "parquet_file", "path": str(dataset)})),
            # any but its default, which would encode anew, with torchcodec, what is encoded already
            *("--data-preprocessor", json.dumps({"kind": "tool_calling_message_extractor"})),
            *("--tokenizer", json.dumps({"kind": "huggingface_auto", "model": str(checkpoint.path)})),
            *("--output", json.dumps({"kind": "json", "path": str(result)})),
        ]
        _run(self.name, command, folder)
        (found,) = json.loads(result.read_text())["benchmarks"]
        metrics = found["metrics"]
        return finding(
            self.name,
            metrics["request_totals"]["successful"],
            metrics["requests_per_second"]["successful"]["mean"],
            metrics["time_to_first_token_ms"]["successful"]["median"],
        )


def finding(name: str, n_answered: int, per_s: float, first_text_ms: float) -> Finding:
    """What a tool has found.

    Raises:
        RecipeError: nothing, though it says that all went well.
    """
    if n_answered == 0:
        raise RecipeError(f"{name} got no answers")
    return Finding(n_answered, per_s, first_text_ms / 1000)


def _files(sent: Sequence[Recording], folder: Path) -> list[Path]:
    files = [folder / f"recording-{number:04}.wav" for number in range(len(sent))]
    for file, recording in zip(files, sent, strict=True):
        file.write_bytes(recording.audio)
    return files


def _run(name: str, command: Sequence[Any], folder: Path) -> None:
    # nothing of theirs needs the network, or should tell anybody of this run
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=folder,
            env=os.environ | quiet,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        raise RecipeError(f"{name} did not end within {_PATIENCE_S} s") from None
    if done.returncode != 0:
        raise RecipeError(f"{name} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
