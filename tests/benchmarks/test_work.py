"""Counts of operations and bytes, against torch's own counter and the tensors themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from benchmarks import work
from benchmarks.true_size import model as true_size
from benchmarks.true_size.bench import SIZES
from benchmarks.true_size.parts import noise
from compress.audio import SAMPLE_RATE
from compress.decoding import Decoding, Mel, encode, log_mel
from compress.prompt import translation
from compress.reading import Reading, likeliest, read
from compress.weights.architectures import QWEN2_AUDIO_7B

ARCHITECTURE = replace(SIZES["small"].architecture, n_layers=2, n_kv_heads=2)
WIDTH = 2  # bytes of bf16
PROMPT = translation("de")


@pytest.fixture(scope="module")
def processor() -> Qwen2AudioProcessor:
    return true_size.processor(ARCHITECTURE)


@pytest.fixture(scope="module")
def toy(processor: Qwen2AudioProcessor) -> Qwen2AudioForConditionalGeneration:
    return true_size.build(ARCHITECTURE, "bf16", "cpu", processor)


@pytest.fixture(scope="module")
def mel(processor: Qwen2AudioProcessor) -> Mel:
    return log_mel(processor, [noise(2.0)])


@pytest.fixture(scope="module")
def audio(toy: Qwen2AudioForConditionalGeneration, mel: Mel) -> list[Tensor]:
    with torch.inference_mode():
        return encode(toy, mel)


@pytest.fixture(scope="module")
def reading(toy: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, audio: list[Tensor]) -> Reading:
    return read(toy, processor, audio, [PROMPT])


def counted(run: Callable[[], object]) -> int:
    """What torch counts, with attention as plain products, since it knows no fused kernel of the CPU's."""
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def n_bytes(*modules: nn.Module) -> int:
    return sum(weight.nbytes for module in modules for weight in module.parameters())


def test_the_encoder(toy: Qwen2AudioForConditionalGeneration, mel: Mel, audio: list[Tensor]) -> None:
    found = work.encoder(ARCHITECTURE, mel.n_frames[0], WIDTH)
    assert found.operations == counted(lambda: encode(toy, mel))
    tower = toy.model.audio_tower
    positions = tower.embed_positions.weight
    # of the table of positions only those that the clip has are read
    in_use = positions[: mel.n_frames[0] // 2].nbytes
    weights = n_bytes(tower) - positions.nbytes + in_use
    assert found.n_bytes == weights + mel.features.nbytes + audio[0].nbytes


def test_a_prompt(
    toy: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, audio: list[Tensor], reading: Reading
) -> None:
    n_text = reading.n_tokens[0] - len(audio[0])
    found = work.prefill(ARCHITECTURE, len(audio[0]), n_text, WIDTH)
    rotation = 2 * ARCHITECTURE.head_width // 2 * reading.n_tokens[0]  # angles, which no weight is part of
    assert found.operations == counted(lambda: read(toy, processor, audio, [PROMPT])) - rotation
    stack = toy.model.language_model
    weights = n_bytes(toy.model.multi_modal_projector, stack.layers, stack.norm, toy.lm_head)
    kept = sum(part.nbytes for pair in reading.key_values for part in pair)
    in_and_out = audio[0].nbytes + WIDTH * (n_text * ARCHITECTURE.width + ARCHITECTURE.width + ARCHITECTURE.vocabulary)
    assert found.n_bytes == weights + kept + in_and_out


@pytest.mark.parametrize("n_rows", [1, 3])
def test_a_decode_step(
    n_rows: int,
    toy: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    audio: list[Tensor],
    reading: Reading,
) -> None:
    batch = Decoding(toy, processor, audio * n_rows, [PROMPT] * n_rows, max_new_tokens=4)
    batch.step()  # tells what reading has found
    n_slots = reading.n_tokens[0] + 1
    found = work.decode_step(ARCHITECTURE, n_rows, n_slots, WIDTH)
    rotation = 2 * ARCHITECTURE.head_width // 2 * n_rows
    assert found.operations == counted(batch.step) - rotation
    stack = toy.model.language_model
    kept = sum(part.nbytes for pair in reading.key_values for part in pair) * n_rows * n_slots // (n_slots - 1)
    in_and_out = WIDTH * n_rows * (2 * ARCHITECTURE.width + ARCHITECTURE.vocabulary)
    assert found.n_bytes == n_bytes(stack.layers, stack.norm, toy.lm_head) + kept + in_and_out


def test_lm_head(toy: Qwen2AudioForConditionalGeneration) -> None:
    hidden = torch.randn(2, ARCHITECTURE.width).bfloat16()
    found = work.lm_head(ARCHITECTURE, 2, WIDTH)
    assert found.operations == counted(lambda: likeliest(toy, hidden))
    assert found.n_bytes == toy.lm_head.weight.nbytes + hidden.nbytes + 2 * WIDTH * ARCHITECTURE.vocabulary


def test_audio_and_mel_features(processor: Qwen2AudioProcessor, mel: Mel) -> None:
    n_samples = 2 * SAMPLE_RATE
    extractor = processor.feature_extractor
    found = work.mel(n_samples, extractor.n_fft, ARCHITECTURE.n_mels)
    assert found.n_bytes == np.zeros(n_samples, np.float32).nbytes + mel.features.nbytes
    filters = torch.from_numpy(extractor.mel_filters).T
    spectrum = torch.rand(len(filters.T), mel.features.shape[-1], dtype=filters.dtype)
    assert found.operations > counted(lambda: filters @ spectrum) > found.operations // 2
    assert work.decoded_audio(1000, n_samples) == work.Work(0, 1000 + 4 * n_samples)


def test_a_token_of_the_true_model_reads_what_its_layers_and_lm_head_hold() -> None:
    found = work.decode_step(QWEN2_AUDIO_7B, 1, 1, WIDTH)
    weights = 6_476_664_832 + 639_107_072
    assert found.n_bytes == pytest.approx(2 * weights, rel=1e-4)
    assert found.operations == pytest.approx(2 * weights, rel=1e-3)
