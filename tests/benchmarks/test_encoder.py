"""The benchmark as a user runs it, on two clips."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from transformers import Qwen2AudioEncoderConfig

from benchmarks.__main__ import main
from benchmarks.encoder import multiply_adds
from compress.audio import N_FRAMES


def test_measures_prints_and_appends_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["encoder", "--device", "cpu", "--repeats", "3", "--clips", "1", "30", "--results", str(tmp_path)]
    rows: list[str] = []
    for n_rows in (1, 2):
        assert main(arguments) == 0
        *table, last = capsys.readouterr().out.splitlines()
        rows = (tmp_path / "encoder.jsonl").read_text().splitlines()
        assert len(rows) == n_rows
        assert rows[-1] == last
        assert "padded / valid" in table[0]
    row = json.loads(rows[-1])
    assert row["command"] == f"python -m benchmarks {' '.join(arguments)}"
    assert re.fullmatch(r"[0-9a-f]{12}\+?", row["commit"])
    assert {"date", "machine", "versions"} <= row.keys()
    assert (row["model"]["name"], row["device"], row["repeats"]) == ("pocket", "cpu", 3)
    short, whole = row["clips"]
    for clip in (short, whole):
        assert clip["max_difference"] < 1e-3
        assert not [name for name in clip["encoder"] if name.endswith("_s")], "a shared CPU's seconds mislead"
    assert short["encoder"]["ratio"] > 2 < short["speech"]["ratio"]
    assert (short["work"] > 30, whole["work"]) == (True, 1)


def test_the_work_of_the_real_model_is_that_of_its_layers() -> None:
    whisper_large_v3 = Qwen2AudioEncoderConfig()
    assert whisper_large_v3.d_model == 1280
    # 614 million parameters of the layers' matrices, each used once for every one of 1,500 positions, and attention
    in_layers = 32 * (1500 * (4 * 1280**2 + 2 * 1280 * 5120) + 2 * 1280 * 1500**2)
    assert multiply_adds(whisper_large_v3, N_FRAMES) == pytest.approx(in_layers, rel=0.01)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--clips", "31"], "a clip of 31.0 s exceeds the encoder's window of 30 s"),
        (["--clips", "0"], "each of --clips more than 0 seconds"),
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--model", "/nowhere"], "no checkpoint directory at /nowhere"),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encoder", "--device", "cpu", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
