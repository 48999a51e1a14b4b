"""Where Qwen2-Audio keeps its parts, and how it is cut, frozen and written: the only file that knows."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compress.errors import RecipeError
from compress.recipe_stages import Part
from compress.weights.key_layout import hub_name

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

PARTS: Final[tuple[Part, ...]] = get_args(Part)


def decoder_layers(model: Qwen2AudioForConditionalGeneration) -> nn.ModuleList:
    """The decoder's layers, lowest first."""
    layers: nn.ModuleList = model.model.language_model.layers
    return layers


def tower_layers(model: Qwen2AudioForConditionalGeneration) -> nn.ModuleList:
    """The audio tower's layers (the paper's encoder), lowest first."""
    layers: nn.ModuleList = model.model.audio_tower.layers
    return layers


def remove_layers(
    model: Qwen2AudioForConditionalGeneration, *, decoder: Collection[int] = (), tower: Collection[int] = ()
) -> None:
    """Takes whole layers out, in place; what is left is numbered anew, in weights and configuration.

    Raises:
        RecipeError: there is no such layer, or none would be left; the model is as it was.
    """
    kept = _kept("decoder", len(decoder_layers(model)), decoder)
    kept_in_tower = _kept("audio tower", len(tower_layers(model)), tower)
    if decoder:
        _keep_in_decoder(model, kept)
    if tower:
        _keep_in_tower(model, kept_in_tower)


@contextmanager
def without_layers(
    model: Qwen2AudioForConditionalGeneration, *, decoder: Collection[int] = (), tower: Collection[int] = ()
) -> Iterator[None]:
    """Takes layers out as `remove_layers` does, and puts them back afterwards; weights are never copied."""
    whole, whole_tower = decoder_layers(model), tower_layers(model)
    whole_types = list(model.model.language_model.config.layer_types)
    remove_layers(model, decoder=decoder, tower=tower)
    try:
        yield
    finally:
        _put_decoder(model, whole, whole_types)
        _put_tower(model, whole_tower)


def part_modules(model: Qwen2AudioForConditionalGeneration, part: str) -> list[nn.Module]:
    """The modules of one of `PARTS`; together the parts hold every weight once.

    Raises:
        RecipeError: no such part.
    """
    stack = model.model.language_model
    modules: dict[str, list[nn.Module]] = {
        "tower": [model.model.audio_tower],
        "projector": [model.model.multi_modal_projector],
        "decoder": [stack.layers, stack.norm],
        "embeddings": [stack.embed_tokens],
        "lm_head": [model.lm_head],
    }
    if part not in modules:
        raise RecipeError(f"no part {part!r}; parts: {', '.join(PARTS)}")
    return modules[part]


def freeze(model: Qwen2AudioForConditionalGeneration, parts: Collection[str]) -> None:
    """Has training leave `parts` alone and change all others.

    Raises:
        RecipeError: no such part.
    """
    frozen = {id(module) for part in parts for module in part_modules(model, part)}
    for part in PARTS:
        for module in part_modules(model, part):
            module.requires_grad_(id(module) not in frozen)
    # sinusoids, which transformers never trains either; loading a checkpoint makes it forget
    model.model.audio_tower.embed_positions.requires_grad_(False)


def is_frozen(model: Qwen2AudioForConditionalGeneration, part: str) -> bool:
    """Whether training leaves a part alone, adapters in it included."""
    return not any(weight.requires_grad for module in part_modules(model, part) for weight in module.parameters())


def save(
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    directory: Path,
    dtype: torch.dtype | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes weights in hub layout, configuration, tokenizer and processor.

    `save_pretrained` would name the decoder's keys `language_model.model.model.*` for a model that was built from a
    configuration, which transformers reads back and vLLM does not: so keys are named here, whatever its origin.

    Args:
        model: neither quantised nor with an adapter.
        processor: saved beside it.
        directory: made if missing.
        dtype: of the stored weights; as they are when absent.
        weights: stored in place of the model's own, under the names of its `state_dict`: of a sharded model, which
            holds a part of them only.
    """
    directory.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(directory)
    state = model.state_dict() if weights is None else weights
    stored = dtype or state["lm_head.weight"].dtype
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    sections: tuple[Any, ...] = (config, config.text_config, config.audio_config)
    for section in sections:
        section.dtype = stored
    config.save_pretrained(directory)
    # What a published checkpoint ends at stands there only; settings derived from the configuration say nothing new.
    # Its `save_pretrained` refuses some published ones.
    if not model.generation_config._from_model_config:
        settings = model.generation_config.to_json_string(ignore_metadata=True)
        (directory / "generation_config.json").write_text(settings, encoding="utf-8")
    tensors = {hub_name(name): _stored(value, dtype) for name, value in state.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _kept(name: str, n_layers: int, removed: Collection[int]) -> list[int]:
    unknown = sorted(set(removed) - set(range(n_layers)))
    if unknown:
        raise RecipeError(f"the {name} has layers 0 to {n_layers - 1}: there is no {', '.join(map(str, unknown))}")
    kept = [index for index in range(n_layers) if index not in set(removed)]
    if not kept:
        raise RecipeError(f"the {name} has {n_layers} layers: not all of them can be removed")
    return kept


def _keep_in_decoder(model: Qwen2AudioForConditionalGeneration, kept: list[int]) -> None:
    stack = model.model.language_model
    types = [stack.config.layer_types[index] for index in kept]
    _put_decoder(model, nn.ModuleList(stack.layers[index] for index in kept), types)


def _put_decoder(model: Qwen2AudioForConditionalGeneration, layers: nn.ModuleList, types: list[str]) -> None:
    stack = model.model.language_model
    stack.layers = layers
    for index, layer in enumerate(layers):
        attention: Any = layer.self_attn
        attention.layer_idx = index  # its slot in the cache
    stack.has_sliding_layers = "sliding_attention" in types
    # the same object, unless somebody has copied it
    configs: tuple[Any, Any] = (stack.config, model.config.text_config)
    for config in configs:
        config.layer_types, config.num_hidden_layers = list(types), len(layers)


def _keep_in_tower(model: Qwen2AudioForConditionalGeneration, kept: list[int]) -> None:
    _put_tower(model, nn.ModuleList(tower_layers(model)[index] for index in kept))


def _put_tower(model: Qwen2AudioForConditionalGeneration, layers: nn.ModuleList) -> None:
    tower = model.model.audio_tower
    tower.layers = layers
    configs: tuple[Any, Any] = (tower.config, model.config.audio_config)
    for config in configs:
        config.encoder_layers = len(layers)


def _stored(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    wanted = dtype if dtype is not None and value.is_floating_point() else value.dtype
    return value.detach().to("cpu", wanted).contiguous()
