"""Shapes and configurations against transformers' own classes, and configurations that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen2AudioConfig, Qwen2AudioEncoderConfig, Qwen2AudioForConditionalGeneration, Qwen2Config

from compress.errors import CheckpointError, RecipeError
from compress.weights.architectures import QWEN2_AUDIO_7B, Architecture


def hub_name(name: str) -> str:
    """A name in memory as the hub's files have it."""
    if name.startswith("lm_head"):
        return f"language_model.{name}"
    return name.removeprefix("model.").replace("language_model.", "language_model.model.", 1)


def test_the_true_model_has_the_tensors_that_transformers_builds() -> None:
    text = {"vocab_size": 156032, "intermediate_size": 11008, "max_position_embeddings": 8192}
    config = Qwen2AudioConfig(text_config={"model_type": "qwen2"} | text)
    with torch.device("meta"):
        model = Qwen2AudioForConditionalGeneration(config)
    built = {hub_name(name): tuple(weight.shape) for name, weight in model.state_dict().items()}
    assert QWEN2_AUDIO_7B.shapes() == built


def test_keys_that_a_configuration_leaves_out_mean_what_transformers_means(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_audio", "text_config": {"vocab_size": 7}}')
    read, text, tower = Architecture.read(tmp_path), Qwen2Config(vocab_size=7), Qwen2AudioEncoderConfig()
    assert text.num_key_value_heads is not None
    assert read == Architecture(
        name=tmp_path.name,
        tower_width=tower.d_model,
        tower_ffn=tower.encoder_ffn_dim,
        n_tower_layers=tower.encoder_layers,
        n_mels=tower.num_mel_bins,
        n_frames=tower.max_source_positions,
        width=text.hidden_size,
        ffn=text.intermediate_size,
        n_layers=text.num_hidden_layers,
        n_heads=text.num_attention_heads,
        n_kv_heads=text.num_key_value_heads,
        head_width=text.hidden_size // text.num_attention_heads,
        vocabulary=7,
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must configure model_type qwen2_audio, found list"),
        ('{"model_type": "whisper"}', "must configure model_type qwen2_audio, found whisper"),
        ('{"model_type": "qwen2_audio", "text_config": 3}', "text_config must be an object, found int"),
        (
            '{"model_type": "qwen2_audio", "text_config": {"hidden_size": "big"}}',
            "hidden_size must be a whole number above 0, found 'big'",
        ),
        (
            '{"model_type": "qwen2_audio", "audio_config": {"encoder_layers": 0}}',
            "encoder_layers must be a whole number above 0, found 0",
        ),
        ('{"model_type": "qwen2_audio", "tie_word_embeddings": true}', "ties lm_head to the embeddings"),
    ],
)
def test_a_configuration_that_cannot_be_planned_says_why(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(CheckpointError, match=complaint):
        Architecture.read(tmp_path / "other.json")


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no configuration at .*config\.json"):
        Architecture.read(tmp_path)


@pytest.mark.parametrize(("n_tower_layers", "n_layers"), [(0, 24), (32, 0), (33, 24), (32, 33)])
def test_layers_that_are_not_there_cannot_be_kept(n_tower_layers: int, n_layers: int) -> None:
    with pytest.raises(RecipeError, match="has 1 to 32 in the audio tower and 1 to 32 in the decoder"):
        QWEN2_AUDIO_7B.keep(n_tower_layers, n_layers)
