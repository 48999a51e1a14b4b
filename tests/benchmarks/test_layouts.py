"""The benchmark's mistakes and its rounding; what it measures needs llm-compressor's environment, and minutes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import layouts
from benchmarks.__main__ import main
from benchmarks.reports import layouts as section
from compress.checkpoint import POCKET, Checkpoint
from compress.weights import schemes
from tests.compress import narrow


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--clips", "-1"], "--clips must be at least 0"),
        (["--calibration", "0"], "--calibration at least 1"),
        (["--layouts", "fp8"], "must have bf16, with which the others are compared"),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["layouts", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_all_layouts_that_vllm_has_kernels_for_are_measured() -> None:
    assert set(schemes.LAYOUTS) <= layouts.LAYOUTS.keys()


@pytest.mark.parametrize(
    ("layout", "rounded"), [("int8", [1.0, -64 / 127, 0.0, 0.0]), ("fp8", [1.0, -0.5, 0.875 / 448, 0.0])]
)
def test_activations_are_rounded_token_by_token(layout: str, rounded: list[float]) -> None:
    model = narrow.build(Checkpoint.open(POCKET).load_processor())
    up = model.model.language_model.layers[0].mlp.up_proj
    tokens = torch.tensor([[1.0], [100.0]])
    states = torch.tensor([1.0, -0.5, 0.002, 0.0] * 16) * tokens
    wanted, head = up(torch.tensor(rounded * 16) * tokens), model.lm_head(states)
    layouts.round_activations(model, layout)
    assert torch.allclose(up(states), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.lm_head(states), head)


def test_the_page_says_what_a_layout_costs() -> None:
    score = {"metric": "BLEU", "value": 40.0, "low": 38.0, "high": 42.0}
    size = {"tensor_bytes": 26_600_000, "bits": 10.5, "decoder_bits": 4.3, "scores": [score]}
    by_vllm = {"same": 19, "of": 20, "bleu": {"vllm": 41.0, "transformers": 41.5}}
    found = [
        {"name": "bf16", **size, "p": 1.0, "same_as_bf16": 200, "vllm": "not tried"},
        {"name": "w4a16", **size, "p": 0.04, "same_as_bf16": 150, "vllm": by_vllm},
    ]
    row = {
        "language": "de",
        "recipe": "r",
        "utterances": 200,
        "calibration": 32,
        "llm_compressor": "1",
        "layouts": found,
    }
    text = section.render([row])
    assert "| bf16 | 26.6 | 10.50 | 4.30 | 40.00 (38.0–42.0) |  |  | not tried |" in text
    assert "| 0.04 | 150 of 200 | 19 of 20 the same; BLEU 41.0, plain 41.5 |" in text
