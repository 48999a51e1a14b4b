"""What is quantised in the layouts that vLLM has kernels for, and how that is said: settings and names, no weights.

    w4a16   4-bit integers, eight in an int32, a scale for a group of a row's weights
    int8    8-bit integers, a scale for a row; activations are rounded to 8 bits as well, a scale for a token
    fp8     8-bit floats (e4m3), the rest as for int8

Embeddings and lm_head may be 8-bit integers beside any of them: four in an int32, a scale for a row, activations plain.
vLLM 0.32 says this of them in its source: `VocabParallelEmbedding` takes integers only when they are packed, and looks
rows up with a Triton kernel; a quantised `ParallelLMHead` is a linear layer, and CUDA has kernels (Machete, Marlin) of
8-bit weights for plain activations.  That was not run on a GPU.  Its CPU build was run: it finds no kernel for such an
lm_head (it has them for 4 bits only); such embeddings load, and without Triton the first look-up fails.  Transformers
itself loads no quantised embeddings; `compressed_tensors` does.

The package compressed-tensors stores a weight `X.weight` as `X.weight` or `X.weight_packed`, with `X.weight_scale` and,
if it is packed, `X.weight_shape`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, get_args

from compress.errors import CheckpointError
from compress.weights.architectures import EMBED_TOKENS, LM_HEAD, Architecture, Shape, is_linear

Layout = Literal["w4a16", "int8", "fp8"]
LAYOUTS: Final[tuple[Layout, ...]] = get_args(Layout)
Embeddings = Literal["bf16", "int8"]
METHOD: Final = "compressed-tensors"  # `quant_method` in config.json

# What is left as it is. Names are not the same in vLLM, in transformers and on disk: only expressions fit them all.
_LM_HEAD: Final = "re:.*lm_head"  # unless embeddings are quantised
IGNORED: Final = ("re:.*audio_tower.*", "re:.*multi_modal_projector.*", _LM_HEAD)

EMBEDDINGS: Final = (EMBED_TOKENS, LM_HEAD)
_INT8_EMBEDDINGS: Final[dict[str, Any]] = {
    "targets": ["re:.*embed_tokens$", "re:.*lm_head$"],
    "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
    "format": "pack-quantized",
}

SCALE: Final = "_scale"
PACKED: Final = "_packed"
SHAPE: Final = "_shape"
PACKED_TOGETHER: Final = {8: 4, 4: 8}  # integers in an int32: how many bits each has
GROUPS: Final = (128, 64, 32)  # weights a scale belongs to, that vLLM's kernels know; the first that fits is taken


def covers(name: str, shape: Shape) -> bool:
    """Whether a tensor (its name in hub layout) is a weight that these layouts quantise: the decoder's linear ones."""
    return is_linear(name, shape) and name.startswith("language_model.")


def scheme(layout: Layout, architecture: Architecture) -> dict[str, Any]:
    """The group of settings that says how weights and activations are quantised, as `config.json` has it.

    Raises:
        CheckpointError: see `group_size`.
    """
    eight_bits = {"num_bits": 8, "type": "float" if layout == "fp8" else "int", "symmetric": True}
    weights: dict[str, Any] = {**eight_bits, "strategy": "channel"}
    if layout != "w4a16":
        activations = {**eight_bits, "strategy": "token", "dynamic": True}
        return {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    weights |= {"num_bits": 4, "strategy": "group", "group_size": group_size(architecture)}
    return {"targets": ["Linear"], "weights": weights}


def group_size(architecture: Architecture) -> int:
    """Weights that share a scale in 4 bits: as many as vLLM has kernels for and the decoder's widths allow.

    Raises:
        CheckpointError: no such group divides them.
    """
    widths = sorted({shape[1] for name, shape in architecture.shapes().items() if covers(name, shape)})
    for size in GROUPS:
        if not any(width % size for width in widths):
            return size
    raise CheckpointError(
        f"w4a16 needs widths that groups of {', '.join(map(str, GROUPS))} weights divide, and {architecture.name}'s "
        f"decoder has {', '.join(map(str, widths))}: choose int8 or fp8"
    )


def with_int8_embeddings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A `quantization_config` of one of these layouts, and of embeddings and lm_head in int8 beside it."""
    general = settings.get("format")
    groups = {name: {"format": general, **group} for name, group in settings["config_groups"].items()}
    groups["group_1"] = _INT8_EMBEDDINGS
    mixed = len({group["format"] for group in groups.values()}) > 1
    return {
        **settings,
        "format": "mixed-precision" if mixed else general,
        "config_groups": groups,
        "ignore": [entry for entry in settings["ignore"] if entry != _LM_HEAD],
    }


def integer_bits(settings: Mapping[str, Any] | None) -> int | None:
    """How many bits the integer weights have that a `quantization_config` speaks of; None where it has no such."""
    found = [group["weights"] for group in _groups(settings)]
    bits = [int(weights["num_bits"]) for weights in found if weights.get("type", "int") == "int"]
    return min(bits, default=None)


def has_weight_only_int8(settings: Mapping[str, Any] | None) -> bool:
    """Whether a `quantization_config` has weights in int8, and activations plain: vLLM's kernels are for CUDA alone."""
    plain = [group["weights"] for group in _groups(settings) if not group.get("input_activations")]
    return any((weights.get("type", "int"), weights.get("num_bits")) == ("int", 8) for weights in plain)


def _groups(settings: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The groups of a `quantization_config` that have weights; none where it is not compressed-tensors'."""
    if not settings or settings.get("quant_method") != METHOD:
        return []
    return [group for group in (settings.get("config_groups") or {}).values() if group.get("weights")]


def weight_of(name: str) -> str | None:
    """The weight that a tensor is a part of, where it is stored in parts; None for a name that is no such part's."""
    for suffix in (PACKED, SCALE, SHAPE):
        if name.endswith(f".weight{suffix}"):
            return name.removesuffix(suffix)
    return None


def compressed(names: Iterable[str]) -> set[str]:
    """The weights that tensors of these names hold in parts."""
    found = {weight_of(name) for name in names}
    return {name for name in found if name is not None}
