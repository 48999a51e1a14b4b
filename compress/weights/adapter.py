"""Low-rank adapters (LoRA): where they go, how many parameters they train, how they are stored and merged."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compress.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from compress.errors import CheckpointError
from compress.recipe_stages import Qlora
from compress.weights import quantise
from compress.weights.architectures import QWEN2_AUDIO_7B, Architecture, Shape
from compress.weights.key_layout import hub_name

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import Qwen2AudioForConditionalGeneration

_NAME: Final = "default"  # peft's, in the names that its parameters have in memory
_PREFIX: Final = "base_model.model."  # before every name on disk
_OUTSIDE_THE_DECODER: Final = r"model\.(audio_tower|multi_modal_projector)\..*"
# What peft can do to a weight beyond adding a product of two matrices; nothing here writes it.
_BEYOND: Final = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias", "fan_in_fan_out")


@dataclass(frozen=True)
class Trainable:
    """How much of a model an adapter trains.

    Attributes:
        modules: adapted linear modules.
        parameters: of the adapter.
        model_parameters: of the model without it; a 4-bit weight counts as the weights it stands for.
    """

    modules: int
    parameters: int
    model_parameters: int

    @property
    def share(self) -> float:
        """Of all parameters, the adapter's included: the paper's 2.41 %."""
        return self.parameters / (self.model_parameters + self.parameters)


def trainable(architecture: Architecture, stage: Qlora) -> Trainable:
    """Counts from shapes alone."""
    shapes = architecture.shapes()
    adapted = [shape for name, shape in shapes.items() if quantise.covers(stage.modules, name, shape)]
    return Trainable(
        modules=len(adapted),
        parameters=stage.rank * sum(rows + columns for rows, columns in adapted),
        model_parameters=sum(math.prod(shape) for shape in shapes.values()),
    )


def configuration(stage: Qlora) -> LoraConfig:
    """The settings for peft; its `all-linear` is spelled out, which it would store in another order every time."""
    from peft import LoraConfig

    adapted = {
        name.split(".")[-2]
        for name, shape in QWEN2_AUDIO_7B.shapes().items()
        if quantise.covers(stage.modules, name, shape)
    }
    return LoraConfig(
        r=stage.rank,
        lora_alpha=stage.alpha,
        lora_dropout=stage.dropout,
        use_rslora=stage.rank_stabilised,
        bias="none",
        target_modules=sorted(adapted),
        exclude_modules=None if stage.modules == "all" else _OUTSIDE_THE_DECODER,
    )


def attach(model: Qwen2AudioForConditionalGeneration, stage: Qlora) -> None:
    """Freezes a model and puts a new adapter into its modules, in fp32; the same one for the same seed."""
    torch.manual_seed(stage.optimisation.seed)
    model.add_adapter(configuration(stage))
    for weight in model.parameters():
        if weight.requires_grad:  # over plain bf16 weights peft makes bf16 factors, where a step of 1e-5 rounds away
            weight.data = weight.data.float()


def save(model: Qwen2AudioForConditionalGeneration, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Writes the adapter of a model as peft would, in fp32; no path of this machine is in it.

    Args:
        model: with the adapter.
        folder: made if missing.
        weights: taken in place of the model's own, under the names of its `state_dict`: of a sharded model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    factors = {
        _PREFIX + name.replace(f".{_NAME}.", "."): weight.detach().to("cpu", torch.float32).contiguous()
        for name, weight in (model.state_dict() if weights is None else weights).items()
        if ".lora_" in name
    }
    save_file(factors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    model.peft_config[_NAME].save_pretrained(str(folder))
    file = folder / ADAPTER_CONFIG
    content = json.loads(file.read_text(encoding="utf-8"))
    content |= {
        "base_model_name_or_path": None,
        "inference_mode": True,
        "target_modules": sorted(content["target_modules"]),
    }
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def copy(folder: Path, target: Path, dtype: torch.dtype) -> None:
    """Writes a stored adapter once more, in another dtype."""
    target.mkdir(parents=True, exist_ok=True)
    factors = {name: factor.to(dtype) for name, factor in load_file(folder / ADAPTER_WEIGHTS).items()}
    save_file(factors, target / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    shutil.copy(folder / ADAPTER_CONFIG, target)


@dataclass(frozen=True)
class Adapter:
    """A stored adapter, to be merged.

    Attributes:
        factors: A of shape (rank, columns) and B of shape (rows, rank), by the weight's name in hub layout.
        scaling: what their product is multiplied by.
    """

    factors: dict[str, tuple[Tensor, Tensor]]
    scaling: float

    @classmethod
    def open(cls, folder: Path, shapes: dict[str, Shape]) -> Self:
        """Reads the adapter of a model with tensors of these shapes.

        Raises:
            CheckpointError: it does more than adding low-rank products, half of a product is missing, or it was made
                for another model.
        """
        content: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        beyond = [key for key in _BEYOND if content.get(key)]
        if content.get("bias", "none") != "none":
            beyond.append("bias")
        if beyond:
            raise CheckpointError(f"the adapter in {folder} uses {', '.join(beyond)}: that is not merged here")
        stored = load_file(folder / ADAPTER_WEIGHTS)
        modules = sorted({name.rpartition(".lora_")[0] for name in stored})
        try:
            factors = {
                hub_name(f"{module.removeprefix(_PREFIX)}.weight"): (
                    stored[f"{module}.lora_A.weight"],
                    stored[f"{module}.lora_B.weight"],
                )
                for module in modules
            }
        except KeyError as missing:
            raise CheckpointError(f"the adapter in {folder} lacks {missing.args[0]}") from None
        for name, (down, up) in factors.items():
            if shapes.get(name) != (up.shape[0], down.shape[1]):
                raise CheckpointError(f"the adapter in {folder} is for another model: nothing fits its {name}")
        root = math.sqrt(content["r"]) if content.get("use_rslora") else content["r"]
        return cls(factors, content["lora_alpha"] / root)

    def update(self, name: str) -> Tensor | None:
        """What merging adds to a weight (its name in hub layout), fp32 of the weight's shape; None for nothing."""
        if name not in self.factors:
            return None
        down, up = (factor.float() for factor in self.factors[name])
        return up @ down * self.scaling
