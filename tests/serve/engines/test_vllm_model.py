"""The model class in vLLM, without an engine around it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress.audio import SAMPLE_RATE, Samples
from compress.checkpoint import POCKET, Checkpoint
from compress.prompt import translation
from compress.weights.entries import read_header
from compress.weights.key_layout import KeyLayout, layout_of, memory_name

pytest.importorskip("vllm", reason="this environment is not `make vllm`'s")

from vllm.config.speech_to_text import SpeechToTextParams
from vllm.exceptions import VLLMValidationError

from serve.engines.vllm_model import Qwen2Audio, groups


@pytest.fixture(scope="module")
def pocket() -> Qwen2AudioForConditionalGeneration:
    return Checkpoint.open(POCKET).load_model("cpu", torch.float32)


@pytest.fixture(scope="module")
def processor() -> Qwen2AudioProcessor:
    return Checkpoint.open(POCKET).load_processor()


class Embedder(Qwen2Audio):
    """The class with the parts that embed speech, and without what vLLM alone can build."""

    def __init__(self, whole: Qwen2AudioForConditionalGeneration) -> None:
        torch.nn.Module.__init__(self)
        self.audio_tower = whole.model.audio_tower
        self.multi_modal_projector = whole.model.multi_modal_projector


def speech(seconds: float, seed: int) -> Samples:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)


@torch.inference_mode()
def test_valid_frames_alone_give_the_embeddings_of_the_padded_run(
    pocket: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    clips = [speech(seconds, seed) for seed, seconds in enumerate((2.0, 30.0, 0.07, 7.3, 6.9))]
    texts = [translation("de").text] * len(clips)
    inputs = processor(text=texts, audio=clips, sampling_rate=SAMPLE_RATE, return_tensors="pt", padding=True)
    audio = {"type": "audio_features", **{key: inputs[key] for key in ("input_features", "feature_attention_mask")}}
    embedder = Embedder(pocket)
    found = embedder._process_audio_input(audio)
    wanted = super(Qwen2Audio, embedder)._process_audio_input(audio)
    torch.testing.assert_close(torch.cat(found), torch.cat(wanted), atol=2e-4, rtol=1e-4)


def test_clips_are_grouped_by_length_and_none_is_lost() -> None:
    n_frames = [100, 3000, 95, 2500, 40, 2400, 100]
    found = groups(n_frames)
    assert sorted(itertools.chain(*found)) == list(range(len(n_frames)))
    for group in found:
        lengths = [n_frames[i] for i in group]
        assert min(lengths) >= 0.8 * max(lengths)
    assert found == [[1, 3, 5], [0, 6, 2], [4]]


@pytest.mark.parametrize("layout", [KeyLayout.DOUBLED, KeyLayout.MEMORY])
def test_the_weights_have_one_place_whatever_they_are_called(layout: KeyLayout) -> None:
    def called(name: str) -> str:
        if layout is KeyLayout.MEMORY:
            return memory_name(name)
        return name.replace("language_model.model.", "language_model.model.model.")

    names = [entry.name for entry in read_header(POCKET / "model.safetensors")]
    others = [called(name) for name in names]
    assert layout in {layout_of(name) for name in others}
    assert Qwen2Audio.hf_to_vllm_mapper.apply_list(others) == Qwen2Audio.hf_to_vllm_mapper.apply_list(names) == names


def asked(**wanted: Any) -> Any:
    """What vLLM's route makes of a form."""
    given = {"task_type": "translate", "to_language": "de", "language": None, **wanted}
    given |= {
        name: Qwen2Audio.validate_language(given[name])
        for name in ("language", "to_language")
        if given[name] or name == "language"
    }
    config = Qwen2Audio.get_speech_to_text_config(None, "translate")
    return Qwen2Audio.get_generation_prompt(
        SpeechToTextParams(audio=speech(1, 0), stt_config=config, model_config=None, **given)
    )


def test_the_prompt_is_the_one_of_training() -> None:
    for code in ("de", "zh"):
        assert asked(to_language=code)["prompt"] == translation(code).text


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"to_language": "fr"}, "'fr' is not offered; to_language takes de, zh"),
        ({"to_language": None}, "to_language is missing"),
        ({"to_language": "en"}, "to_language is missing or not offered"),
        ({"language": "de"}, "only English speech"),
        ({"task_type": "transcribe"}, "/v1/audio/translations"),
    ],
)
def test_what_it_cannot_do_is_refused_in_words(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(VLLMValidationError, match=message):
        asked(**wanted)


def test_chinese_is_joined_without_spaces() -> None:
    asked(to_language="zh")
    assert "en" in Qwen2Audio.no_space_languages
    asked(to_language="de")
    assert "en" not in Qwen2Audio.no_space_languages
