"""The benchmark with vLLM's tool, where vLLM is installed, and what it says where there is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.reports import page
from benchmarks.traffic import tools


def test_measures_prints_and_appends_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm", reason="this environment is not `make vllm`'s")
    monkeypatch.setattr(tools, "installed", lambda: [tools.VllmBench(Path(sys.executable))])
    flags = ["--recordings", "3", "--repeats", "1", "--clients", "2"]
    assert main(["cross-check", *flags, "--results", str(tmp_path)]) == 0
    (tool,) = json.loads(capsys.readouterr().out.splitlines()[-1])["tools"]
    assert (tool["tool"], tool["answered"], tool["of"]) == ("vllm bench serve", 3, 3)
    assert tool["per_s"]["median"] > 0 < tool["first_text"]["median"]
    assert "3 of 3 |" in page.render(tmp_path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--repeats", "0"], "--clients, --recordings and --repeats must be at least 1"),
        ([], "there is nothing to compare with: run `make vllm` or `make guidellm`"),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tools, "installed", list)
    assert main(["cross-check", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
