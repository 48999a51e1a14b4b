"""vLLM's own benchmark of servers against ours, where vLLM is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import serve
from benchmarks.traffic import tools
from benchmarks.traffic.recordings import Recording, encoded
from benchmarks.traffic.server_process import serving
from compress.audio import SAMPLE_RATE, decode
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import RecipeError


def recordings(n: int) -> list[Recording]:
    clips = [decode(file) for file in sorted((Path(serve.__file__).parent / "examples").glob("*.flac"))[:n]]
    return [Recording(encoded(clip, "wav"), len(clip) / SAMPLE_RATE, "de", clip) for clip in clips]


def test_tools_are_found_by_their_environments(tmp_path: Path) -> None:
    assert list(tools.installed(tmp_path)) == []
    python = tmp_path / ".venv-guidellm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert [one.name for one in tools.installed(tmp_path)] == ["GuideLLM"]


def test_vllm_bench_serve_measures_our_server(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="this environment is not `make vllm`'s")
    with serving(POCKET) as server:
        bench = tools.VllmBench(Path(sys.executable))
        found = bench.measure(server.url, Checkpoint.open(POCKET), recordings(3), 2, tmp_path)
    assert found.n_answered == 3
    assert found.per_s > 0 < found.first_text_s


def test_a_tool_that_fails_says_why(tmp_path: Path) -> None:
    program = tmp_path / "guidellm"
    program.write_text("#!/bin/sh\necho 'no such backend' >&2\nexit 3\n")
    program.chmod(0o755)
    tool = tools.GuideLLM(tmp_path / "python")
    with pytest.raises(RecipeError, match="GuideLLM failed: no such backend"):
        tool.measure("http://127.0.0.1:9", Checkpoint.open(POCKET), recordings(1), 1, tmp_path)


def test_a_tool_that_got_no_answers_has_found_nothing() -> None:
    with pytest.raises(RecipeError, match="GuideLLM got no answers"):
        tools.finding("GuideLLM", 0, 0.0, float("nan"))
