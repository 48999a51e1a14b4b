"""The shipped pocket model, a miniature of it, and sounds, for several test files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress.audio import SAMPLE_RATE, Samples
from compress.checkpoint import POCKET, Checkpoint


@pytest.fixture(scope="session")
def pocket() -> Qwen2AudioForConditionalGeneration:
    """The shipped model in fp32."""
    return Checkpoint.open(POCKET).load_model("cpu", torch.float32)


@pytest.fixture(scope="session")
def processor() -> Qwen2AudioProcessor:
    return Checkpoint.open(POCKET).load_processor()


def build(
    processor: Qwen2AudioProcessor, *, n_layers: int, n_tower_layers: int, seed: int
) -> Qwen2AudioForConditionalGeneration:
    """The same class with few narrow layers, random weights and the pocket model's vocabulary; fp32."""
    config = Qwen2AudioConfig(
        audio_config={
            "num_mel_bins": 80,
            "encoder_layers": n_tower_layers,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "d_model": 24,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(processor.tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": n_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
        },
        audio_token_index=processor.audio_token_id,
    )
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(config)
    model.eval()
    return model


@pytest.fixture
def miniature(processor: Qwen2AudioProcessor) -> Qwen2AudioForConditionalGeneration:
    """Three decoder layers under one of a frozen tower."""
    model = build(processor, n_layers=3, n_tower_layers=1, seed=0)
    # scores far enough apart that rounding never decides between two words
    for weight in model.model.language_model.parameters():
        weight.data *= 3
    model.model.audio_tower.requires_grad_(False)
    return model


def sound(duration_s: float, seed: int = 0) -> Samples:
    """Something that rises and falls like speech, shape (n_samples,)."""
    rng = np.random.default_rng(seed)
    n_samples = round(duration_s * SAMPLE_RATE)
    time = np.arange(n_samples) / SAMPLE_RATE
    pitch = 120 + 40 * np.sin(2 * np.pi * 0.7 * time + seed)
    voice = sum(np.sin(2 * np.pi * k * np.cumsum(pitch) / SAMPLE_RATE) / k for k in range(1, 12))
    syllables = np.maximum(0, np.sin(2 * np.pi * 3 * time)) ** 0.5
    return (0.2 * voice * syllables + 0.003 * rng.standard_normal(n_samples)).astype(np.float32)
