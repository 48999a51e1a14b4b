"""Qwen2-Audio of any size with random weights, made where it is going to run, in the formats that it is served in."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from benchmarks.endless import never_end
from benchmarks.true_size import int4
from compress.attention import GROUPED
from compress.checkpoint import POCKET, Checkpoint
from compress.recipe_stages import Qlora
from compress.weights import adapter, quantise
from compress.weights.architectures import Architecture
from compress.weights.key_layout import hub_name

# bf16; nf4 and int8 by bitsandbytes in all linear modules but lm_head; nf4 with the paper's adapter beside it, in bf16;
# W4A16 in the decoder
FORMATS: Final = ("bf16", "nf4", "w4a16", "int8", "nf4+lora")
_STD: Final = 0.02  # of the weights
_TOWER_HEAD: Final = 64  # width of a head in Whisper's encoders, small and large


def processor(architecture: Architecture) -> Qwen2AudioProcessor:
    """The pocket model's tokenizer, whose prompts are as long as any, with this architecture's mel bands."""
    tokenizer = Checkpoint.open(POCKET).load_processor().tokenizer
    return Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=architecture.n_mels), tokenizer)


def problem(form: str, device: str) -> str:
    """Why one of `FORMATS` cannot be measured here; empty where it can."""
    needed = {"nf4": ["bitsandbytes"], "int8": ["bitsandbytes"], "nf4+lora": ["bitsandbytes", "peft"]}.get(form, [])
    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    return int4.problem(device) if form == "w4a16" else ""


@torch.no_grad()
def build(
    architecture: Architecture, form: str, device: str, processor: Qwen2AudioProcessor
) -> Qwen2AudioForConditionalGeneration:
    """A model that never ends a translation; each weight is quantised as it is made, so no more memory is needed.

    Args:
        architecture: its shape.
        form: one of `FORMATS`.
        device: where its weights are made.
        processor: see `processor`.
    """
    config = _configuration(architecture, processor)
    with torch.device("meta"):
        model = Qwen2AudioForConditionalGeneration(config)
    model.set_attn_implementation(GROUPED)
    stack: Any = model.model.language_model
    stack.rotary_emb = type(stack.rotary_emb)(config.text_config).to(device)  # no weights, and yet on meta
    generator = torch.Generator(device).manual_seed(0)
    for name in [name for name, _ in model.named_modules()]:  # no list of modules, which would keep what is replaced
        module = model.get_submodule(name)
        for key, weight in list(module.named_parameters(recurse=False)):
            value = _random(key, weight, generator)
            setattr(module, key, nn.Parameter(value, requires_grad=False))
        if isinstance(module, nn.Linear) and (packed := _packed(form, name, module)) is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, packed)
    if form == "nf4+lora":
        _adapt(model)
    # says at every product of int8 weights that the other factor is cast, which takes longer than the product
    logging.getLogger("bitsandbytes.autograd").setLevel(logging.ERROR)
    never_end(model, processor)
    model.eval()
    return model


def n_weight_bytes(modules: Iterable[nn.Module]) -> int:
    """Bytes of what modules hold: weights, their scales, and buffers."""
    found: dict[int, Tensor] = {}
    for module in (inner for outer in modules for inner in outer.modules()):
        # the first pass through an int8 module moves its scales there
        parts: list[Any] = [getattr(getattr(module, "state", None), "SCB", None)]
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            parts += [tensor, getattr(tensor, "SCB", None), *_nf4_companions(getattr(tensor, "quant_state", None))]
        # tables that several weights share count once
        found |= {part.data_ptr(): part for part in parts if isinstance(part, Tensor)}
    return sum(tensor.nbytes for tensor in found.values())


def _nf4_companions(state: Any) -> list[Tensor]:
    """What bitsandbytes keeps beside a 4-bit weight."""
    if state is None:
        return []
    nested = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
    return [state.absmax, state.code, *nested]


def _configuration(architecture: Architecture, processor: Qwen2AudioProcessor) -> Qwen2AudioConfig:
    a, tokenizer = architecture, processor.tokenizer
    config = Qwen2AudioConfig(
        audio_config={
            "num_mel_bins": a.n_mels,
            "encoder_layers": a.n_tower_layers,
            "encoder_attention_heads": a.tower_width // _TOWER_HEAD,
            "encoder_ffn_dim": a.tower_ffn,
            "d_model": a.tower_width,
            "max_source_positions": a.n_frames,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": a.vocabulary,
            "hidden_size": a.width,
            "intermediate_size": a.ffn,
            "num_hidden_layers": a.n_layers,
            "num_attention_heads": a.n_heads,
            "num_key_value_heads": a.n_kv_heads,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        audio_token_index=processor.audio_token_id,
        tie_word_embeddings=False,  # type: ignore[call-arg]  # a field of every configuration, missing from the hints
    )
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    return config


def _random(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """What a weight begins with before training: ones for norms, zeros for biases."""
    value = torch.empty(like.shape, dtype=torch.bfloat16, device=generator.device)
    if like.ndim > 1:
        return value.normal_(0, _STD, generator=generator)
    return value.fill_(0 if name == "bias" else 1)


def _packed(form: str, name: str, linear: nn.Linear) -> nn.Module | None:
    """The module in one of `FORMATS`; None where it stays as it is."""
    reach: quantise.Modules = "decoder" if form == "w4a16" else "all"
    if form == "bf16" or not quantise.covers(reach, hub_name(f"{name}.weight"), tuple(linear.weight.shape)):
        return None
    if form == "w4a16":
        return int4.Int4Linear(linear)
    from bitsandbytes.nn.modules import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    has_bias, sizes = linear.bias is not None, (linear.in_features, linear.out_features)
    packed: Any
    with torch.device("meta"):
        if form == "int8":
            packed = Linear8bitLt(*sizes, has_bias, has_fp16_weights=False)
        else:
            packed = Linear4bit(*sizes, has_bias, compute_dtype=torch.bfloat16, quant_type="nf4")
    # bitsandbytes quantises a weight when it is put where it is going to run; an int8 one has to come from the CPU
    weight, device = linear.weight.data, linear.weight.device
    plain: Any
    if form == "int8":
        plain = Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
    else:
        plain = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
    packed.weight = plain.to(device)
    packed.bias = linear.bias
    packed.support_avx512bf16_for_cpu = False  # see `compress.checkpoint`
    found: nn.Module = packed
    return found


def _adapt(model: Qwen2AudioForConditionalGeneration) -> None:
    """The paper's adapter, in bf16."""
    loaded: Any = model
    loaded.is_loaded_in_4bit = True  # how peft tells 4-bit modules; loading a checkpoint sets it
    adapter.attach(model, Qlora())
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data = weight.data.to(torch.bfloat16)
        weight.requires_grad_(False)
