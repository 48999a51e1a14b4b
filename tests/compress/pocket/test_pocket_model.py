"""The shipped checkpoint: its layout, its size, and that it translates speech it has never heard."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch
from safetensors import safe_open
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress import decoding
from compress.checkpoint import POCKET, Checkpoint
from compress.pocket.corpus import HUMAN_DEBIAN_PACKAGE, Clip, evaluation_clips, human_prompts, silent_clips
from compress.pocket.sound import speak
from compress.pocket.speech import VOICES
from compress.prompt import LANGUAGES, translation
from compress.translate import translate
from tests.compress.pocket.test_speech import missing

# Far enough below the model card's figures that a few clips cannot fall under them by chance.
BLEU_FLOOR = {"de": 33.0, "zh": 33.0}
HUMAN_BLEU_FLOOR = {"de": 32.0, "zh": 28.0}
# characters that the model may write, on average, for a clip in which nothing is said
MEAN_INVENTED_CHARACTERS = 3.0

N_LAYERS, N_TOWER_LAYERS = 12, 4


def shapes() -> dict[str, tuple[str, list[int]]]:
    with safe_open(POCKET / "model.safetensors", "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping, it only looks like one
        return {name: (found.get_dtype(), found.get_shape()) for name, found in slices.items()}


# --- layout -----------------------------------------------------------------------------------------------------


def test_transformers_loads_every_weight_and_misses_none() -> None:
    loaded: Any = Qwen2AudioForConditionalGeneration.from_pretrained(POCKET, output_loading_info=True)
    _, found = loaded
    assert {name: list(problems) for name, problems in found.items() if problems} == {}


def test_weights_are_named_as_on_the_hub() -> None:
    """The names of Qwen/Qwen2-Audio-7B-Instruct, which vLLM's loader maps; transformers itself would read others."""
    tower = ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "embed_positions.weight"]
    tower += ["layer_norm.weight", "layer_norm.bias"]
    tower_layer = [f"self_attn.{name}_proj.{kind}" for name in ("q", "v", "out") for kind in ("weight", "bias")]
    tower_layer += ["self_attn.k_proj.weight"]
    tower_layer += [
        f"{name}.{kind}"
        for name in ("self_attn_layer_norm", "fc1", "fc2", "final_layer_norm")
        for kind in ("weight", "bias")
    ]
    layer = [f"self_attn.{name}_proj.{kind}" for name in "qkv" for kind in ("weight", "bias")]
    layer += ["self_attn.o_proj.weight", *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down"))]
    layer += ["input_layernorm.weight", "post_attention_layernorm.weight"]
    expected = {
        *(f"audio_tower.{name}" for name in tower),
        *(f"audio_tower.layers.{i}.{name}" for i in range(N_TOWER_LAYERS) for name in tower_layer),
        "multi_modal_projector.linear.weight",
        "multi_modal_projector.linear.bias",
        "language_model.model.embed_tokens.weight",
        "language_model.model.norm.weight",
        "language_model.lm_head.weight",
        *(f"language_model.model.layers.{i}.{name}" for i in range(N_LAYERS) for name in layer),
    }
    assert set(shapes()) == expected


def test_weights_are_bf16_and_small_enough_for_a_repository() -> None:
    assert {dtype for dtype, _ in shapes().values()} == {"BF16"}
    assert sum(file.stat().st_size for file in POCKET.iterdir()) <= 40_000_000
    n_parameters = sum(math.prod(shape) for _, shape in shapes().values())
    assert 15_000_000 < n_parameters < 20_000_000


def test_the_configuration_is_qwen2_audios() -> None:
    config = json.loads((POCKET / "config.json").read_text())
    assert config["architectures"] == ["Qwen2AudioForConditionalGeneration"]
    assert config["model_type"] == "qwen2_audio"
    assert config["text_config"]["model_type"] == "qwen2"
    assert config["text_config"]["num_hidden_layers"] == N_LAYERS
    assert config["dtype"] == "bfloat16"
    assert "auto_map" not in config


def test_the_directory_holds_no_more_than_a_checkpoint() -> None:
    allowed = {"README.md", "chat_template.jinja", "config.json", "generation_config.json", "lineage.json"}
    allowed |= {"model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in POCKET.iterdir()} <= allowed


def test_the_tokenizer_writes_what_it_read(processor: Qwen2AudioProcessor) -> None:
    for text in ("Wo ist der nächste Bahnhof? Um 9.30 Uhr!", "请问，最近的火车站在哪里？", "naïve 🚆 żółw"):
        ids = processor.tokenizer.encode(text, add_special_tokens=False)
        assert processor.tokenizer.decode(ids) == text


def test_the_lineage_and_the_card_hold_the_same_scores() -> None:
    lineage = Checkpoint.open(POCKET).lineage
    card = (POCKET / "README.md").read_text()
    assert lineage["split"] == "report"
    for score in lineage["scores"]:
        assert f"{score['value']:.1f} ({score['low']:.1f}–{score['high']:.1f})" in card
        assert score["signature"] in card


# --- translation ------------------------------------------------------------------------------------------------


def translations(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, clips: Sequence[Clip], language: str
) -> list[str]:
    with torch.inference_mode():
        audio = decoding.encode(model, decoding.log_mel(processor, [speak(clip) for clip in clips]))
    return translate(model, processor, audio, translation(language), 80)


def bleu(hypotheses: list[str], clips: Sequence[Clip], language: str) -> float:
    references = [[str(getattr(clip, language)) for clip in clips]]
    tokenizer = "zh" if language == "zh" else "13a"
    return sacrebleu.corpus_bleu(hypotheses, references, tokenize=tokenizer).score


@pytest.fixture(scope="module")
def spoken() -> list[Clip]:
    """A few report clips by the seen voices that are installed."""
    mute = {voice.name for voice in VOICES if missing(voice)}
    clips = [clip for clip in evaluation_clips("report", 8) if not clip.held_out_voice and clip.voice not in mute]
    if not clips:
        pytest.skip("no synthesiser of a seen voice is installed")
    return clips


@pytest.mark.parametrize("language", LANGUAGES)
def test_speech_is_translated(
    language: str,
    spoken: list[Clip],
    pocket: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
) -> None:
    assert bleu(translations(pocket, processor, spoken, language), spoken, language) > BLEU_FLOOR[language]


@pytest.mark.parametrize("language", LANGUAGES)
def test_human_recordings_are_translated(
    language: str, pocket: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    clips = [clip for clip in human_prompts() if Path(clip.path).is_file()][::10]
    if not clips:
        pytest.skip(f"Debian's {HUMAN_DEBIAN_PACKAGE} is not installed")
    assert bleu(translations(pocket, processor, clips, language), clips, language) > HUMAN_BLEU_FLOOR[language]


@pytest.mark.parametrize("language", LANGUAGES)
def test_silence_and_noise_give_little_text(
    language: str, pocket: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    texts = translations(pocket, processor, silent_clips("report", 16), language)
    assert sum(map(len, texts)) / len(texts) <= MEAN_INVENTED_CHARACTERS, texts
