"""Qwen2-Audio in vLLM, as this package's checkpoints need it.

vLLM's own class encodes 30 s of padding with every clip, offers no translation route, takes no adapters and no packed
4-bit weights, and knows one of the three spellings of the weights' names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, Final

import torch
from torch import Tensor
from vllm.config import ModelConfig, SpeechToTextConfig
from vllm.config.speech_to_text import SpeechToTextParams
from vllm.exceptions import VLLMValidationError
from vllm.inputs import PromptType, TextPrompt
from vllm.model_executor.models.interfaces import SupportsLoRA, SupportsTranscription
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.qwen2_audio import (
    Qwen2AudioDummyInputsBuilder,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioMultiModalProcessor,
    Qwen2AudioProcessingInfo,
)
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from compress.audio import N_FRAMES, SAMPLE_RATE, WINDOW_S
from compress.decoding import CONVOLUTION_REACH, Mel, n_audio_tokens, n_mel_frames, run_tower
from compress.prompt import LANGUAGES, translation
from compress.weights.key_layout import SPELLINGS

_SPOKEN: Final = "en"
# Of what is encoded together, padding may be this share.
_PADDING: Final = 0.2

_wanted: ContextVar[str] = ContextVar("target language of the request that this task serves", default="")


class _WithoutSpaces(frozenset[str]):
    """vLLM asks whether the language that was spoken is written without spaces; what is written is another."""

    def __contains__(self, _: object) -> bool:
        return LANGUAGES[_wanted.get()].joiner == "" if _wanted.get() else False


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2AudioMultiModalProcessor, info=Qwen2AudioProcessingInfo, dummy_inputs=Qwen2AudioDummyInputsBuilder
)
class Qwen2Audio(Qwen2AudioForConditionalGeneration, SupportsLoRA, SupportsTranscription):
    """vLLM's class with what it lacks."""

    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix=dict(SPELLINGS))
    supported_languages: ClassVar[Mapping[str, str]] = {code: one.name for code, one in LANGUAGES.items()}
    no_space_languages: ClassVar[Any] = _WithoutSpaces()

    # --- weights --------------------------------------------------------------------------------------------------

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Takes the weights under any of their names."""
        loaded: set[str] = AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
        return loaded

    def get_mm_mapping(self) -> MultiModelKeys:
        """Which part is which; adapters are for the language model alone."""
        return MultiModelKeys.from_string_field(
            language_model="language_model", connector="multi_modal_projector", tower_model="audio_tower"
        )

    # --- speech to embeddings -------------------------------------------------------------------------------------

    def _process_audio_input(self, audio_input: Any) -> tuple[Tensor, ...]:
        if audio_input["type"] == "audio_embeds":
            return tuple(audio_input["audio_embeds"])
        features, mask = audio_input["input_features"], audio_input["feature_attention_mask"]
        n_frames: list[int] = mask.sum(-1).tolist()
        embedded: dict[int, Tensor] = {}
        for group in groups(n_frames):
            lengths = [n_frames[i] for i in group]
            width = min(N_FRAMES, max(lengths) + CONVOLUTION_REACH)
            mel = Mel(torch.stack([features[i][..., :width] for i in group]), lengths)
            for i, encoded in zip(group, run_tower(self.audio_tower, mel), strict=True):
                embedded[i] = self.multi_modal_projector(encoded)
        return tuple(embedded[i] for i in range(len(n_frames)))

    # --- vLLM's own translation route -----------------------------------------------------------------------------

    @classmethod
    def validate_language(cls, language: str | None) -> str:
        """What is spoken, or what is to be written: vLLM asks both with one question.

        Raises:
            VLLMValidationError: neither.
        """
        if language in (None, _SPOKEN, *LANGUAGES):
            return language or _SPOKEN
        offered = ", ".join(LANGUAGES)
        raise VLLMValidationError(f"language {language!r} is not offered; to_language takes {offered}")

    @classmethod
    def get_generation_prompt(cls, stt_params: SpeechToTextParams) -> PromptType:
        """The prompt that the model was trained with.

        Raises:
            VLLMValidationError: a transcription, or into a language that is not offered, or speech that is not English.
        """
        offered = ", ".join(LANGUAGES)
        if stt_params.task_type != "translate":
            raise VLLMValidationError("this model translates: use /v1/audio/translations")
        if stt_params.language not in (None, _SPOKEN):
            raise VLLMValidationError(f"only English speech is translated; to_language takes {offered}")
        if stt_params.to_language not in LANGUAGES:
            raise VLLMValidationError(f"to_language is missing or not offered; it takes {offered}")
        _wanted.set(stt_params.to_language)
        return TextPrompt(
            prompt=translation(stt_params.to_language).text,
            multi_modal_data={"audio": (stt_params.audio, stt_params.stt_config.sample_rate)},
        )

    @classmethod
    def get_speech_to_text_config(cls, model_config: ModelConfig, task_type: str) -> SpeechToTextConfig:
        """Longer audio is cut where it is quiet."""
        del model_config, task_type
        return SpeechToTextConfig(sample_rate=SAMPLE_RATE, max_audio_clip_s=WINDOW_S)

    @classmethod
    def get_num_audio_tokens(
        cls, audio_duration_s: float, stt_config: SpeechToTextConfig, model_config: ModelConfig
    ) -> int:
        """Of a clip of so many seconds."""
        del model_config
        n_samples = int(min(audio_duration_s, WINDOW_S) * stt_config.sample_rate)
        return n_audio_tokens(n_mel_frames(n_samples))


def groups(n_frames: list[int]) -> list[list[int]]:
    """Clips to encode together, by number: of similar length, the longest first."""
    found: list[list[int]] = []
    for i in sorted(range(len(n_frames)), key=lambda i: -n_frames[i]):
        if found and n_frames[i] >= (1 - _PADDING) * n_frames[found[-1][0]]:
            found[-1].append(i)
        else:
            found.append([i])
    return found
