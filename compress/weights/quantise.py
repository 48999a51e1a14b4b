"""4-bit weights as bitsandbytes stores them: nf4 in blocks of 64, and the blocks' scales quantised again.

One weight at a time and without a model: what an adapter is trained on, what is exported and what is measured are
the same bytes, and seven billion parameters need no more memory than they fill.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal

import torch
from torch import Tensor

from compress.weights.architectures import Shape, is_linear

Modules = Literal["all", "decoder"]

# A weight by what follows its name on disk: "" for itself, ".absmax" and the like for what belongs to nf4.
Parts = dict[str, Tensor]

# transformers matches these with the start or the end of its own names, not with those on disk ("audio_tower" skips
# nothing), and a list replaces its default, which is lm_head.
_SKIPPED: Final[dict[Modules, list[str]]] = {
    "all": ["lm_head"],
    "decoder": ["model.audio_tower", "model.multi_modal_projector", "lm_head"],
}
_BLOCK: Final = 64  # weights a scale belongs to; bitsandbytes' default, spelled out because sizes depend on it


def covers(modules: Modules, name: str, shape: Shape) -> bool:
    """Whether a tensor (its name in hub layout) is the weight of a module that is quantised, and adapted.

    `decoder` leaves out the tower and the projector, whose 4-bit weights vLLM cannot load.
    """
    return is_linear(name, shape) and (modules == "all" or name.startswith("language_model."))


def settings(modules: Modules, double: bool) -> dict[str, Any]:
    """The `quantization_config` of such a checkpoint's `config.json`; bf16 is computed in.

    Args:
        modules: which linear modules hold nf4.
        double: whether the scales are quantised, too.
    """
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=_SKIPPED[modules],
    )
    plain: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
    return plain


def quantise(weight: Tensor, double: bool) -> Parts:
    """A weight of shape (rows, columns) in nf4, as `save_pretrained` would store it after a load in bf16."""
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(
        weight.to(torch.bfloat16).contiguous(), blocksize=_BLOCK, compress_statistics=double, quant_type="nf4"
    )
    # copies, because bitsandbytes may hand the same table out twice and safetensors stores no tensor under two names
    return {"": packed} | {f".{name}": part.clone() for name, part in state.as_dict(packed=True).items()}


def dequantise(parts: Parts) -> Tensor:
    """The weight that 4-bit parts stand for, shape (rows, columns), in the dtype it had before: bf16."""
    from bitsandbytes import functional

    companions = {name.removeprefix("."): part for name, part in parts.items() if name}
    state = functional.QuantState.from_dict(companions, device=torch.device("cpu"))
    weight: Tensor = functional.dequantize_4bit(parts[""], state)
    return weight


def is_quantised(parts: Parts) -> bool:
    """Whether a stored weight is in nf4."""
    return ".quant_state.bitsandbytes__nf4" in parts
