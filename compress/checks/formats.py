"""Quantised weights and adapters: what the settings say against what the files hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from compress.checkpoint import ADAPTER_CONFIG, ADAPTER_FOLDER, ADAPTER_WEIGHTS, read_object
from compress.checks.patient import Finding, Patient, first_of, outside_the_decoder
from compress.errors import CheckpointError
from compress.weights.architectures import EMBED_TOKENS, LM_HEAD, Architecture, Shape, is_linear
from compress.weights.entries import read_header
from compress.weights.key_layout import hub_name, memory_name
from compress.weights.schemes import EMBEDDINGS, PACKED, PACKED_TOGETHER, SCALE, SHAPE

_LINEAR: Final = "Linear"  # the class of modules, as a target
_READ: Final = (("int", 4), ("int", 8), ("float", 8))


def quantisation(patient: Patient) -> Iterator[Finding]:
    """`config.json` calls quantised what the files hold quantised, and no other weight."""
    settings = patient.quantisation or {}
    method = settings.get("quant_method")
    if not settings:
        if patient.nf4:
            yield Finding(f"{len(patient.nf4)} weights are in nf4, and config.json has no quantization_config")
    elif method == "bitsandbytes":
        yield from _bitsandbytes(patient, settings)
    elif method == "compressed-tensors":
        yield from _compressed_tensors(patient, settings)
    else:
        yield Finding(f"quantization_config is for {method}, which nothing here can load")
    if outside := outside_the_decoder(patient.nf4 | patient.compressed.keys()):
        message = (
            f"{len(outside)} weights of tower and projector are quantised, such as {outside[0]}: vLLM loads these "
            "plain only; quantise the decoder alone, or export bf16"
        )
        yield Finding(message, blocks=("vllm",))


def _bitsandbytes(patient: Patient, settings: dict[str, Any]) -> Iterator[Finding]:
    if patient.architecture is None or not patient.entries:
        return
    skipped = settings.get("llm_int8_skip_modules") or ["lm_head"]
    modules = {
        name: memory_name(name).removesuffix(".weight")
        for name, shape in patient.architecture.shapes().items()
        if is_linear(name, shape) or name == LM_HEAD
    }
    declared = {name for name, module in modules.items() if not is_skipped(module, skipped)}
    if plain := declared - patient.nf4:
        useless = [entry for entry in skipped if not any(is_skipped(module, [entry]) for module in modules.values())]
        hint = f"; llm_int8_skip_modules has {', '.join(useless)}, which skips nothing: names start as in "
        yield Finding(
            f"{len(plain)} weights are not in nf4, such as {min(plain)}, and no skip list says so"
            + (f"{hint}{memory_name('audio_tower')}" if useless else "")
        )
    if hidden := patient.nf4 - declared:
        yield Finding(f"{len(hidden)} weights are in nf4, such as {min(hidden)}, which the skip list leaves out")


def _compressed_tensors(patient: Patient, settings: dict[str, Any]) -> Iterator[Finding]:
    ignored = [str(entry) for entry in settings.get("ignore") or []]
    for entry in ignored:
        if not entry.startswith("re:"):
            message = (
                f"quantization_config.ignore has {entry}, a name on disk, which transformers does not match: write "
                "regular expressions, such as re:.*lm_head"
            )
            yield Finding(message, blocks=("transformers",))
    yield from _strange_schemes(settings)
    if patient.architecture is None or not patient.entries:
        return
    if problems := _damaged_parts(patient):
        yield Finding(first_of(problems))
    yield from _unpacked_embeddings(patient)
    groups = (settings.get("config_groups") or {}).values()
    targets = [str(target) for group in groups for target in group.get("targets") or []]
    if any(target != _LINEAR and not target.startswith("re:") for target in targets):
        return  # which modules others mean is for those to say who load them
    declared = {
        name
        for name, shape in patient.architecture.shapes().items()
        if _is_targeted(name, shape, targets) and not is_listed(name.removesuffix(".weight"), ignored)
    }
    held = patient.compressed.keys()
    if plain := declared - held:
        yield Finding(f"{len(plain)} weights are not quantised, such as {min(plain)}, and no ignore list says so")
    if hidden := held - declared:
        yield Finding(f"{len(hidden)} weights are quantised, such as {min(hidden)}, which the settings leave out")


def _is_targeted(name: str, shape: Shape, targets: list[str]) -> bool:
    """Whether the targets of compressed-tensors' groups have a weight's module, by its class or by its name."""
    linear = is_linear(name, shape) or name == LM_HEAD
    by_name = [target for target in targets if target != _LINEAR]
    return (linear and _LINEAR in targets) or (
        (linear or name in EMBEDDINGS) and is_listed(name.removesuffix(".weight"), by_name)
    )


def _unpacked_embeddings(patient: Patient) -> Iterator[Finding]:
    """Embeddings that vLLM, which looks them up packed, does not load."""
    if EMBED_TOKENS in patient.compressed and EMBED_TOKENS + PACKED not in patient.entries:
        yield Finding(f"{EMBED_TOKENS} is not packed: vLLM takes embeddings in packed integers only", blocks=("vllm",))


def _strange_schemes(settings: dict[str, Any]) -> Iterator[Finding]:
    """Forms of weights that `weights.compressed_tensors` does not read."""
    for group in (settings.get("config_groups") or {}).values():
        weights = group.get("weights") or {}
        kind = (weights.get("type"), weights.get("num_bits"))
        if kind not in _READ or not weights.get("symmetric", True) or weights.get("actorder") == "group":
            message = f"weights are quantised as {json.dumps(weights)}, which is read by vLLM only"
            yield Finding(message, blocks=("transformers",))


def _damaged_parts(patient: Patient) -> list[str]:
    """Quantised weights whose parts do not make one."""
    problems = []
    for name, shape in patient.compressed.items():
        packed, scale = patient.entries.get(name + PACKED), patient.entries.get(name + SCALE)
        if shape is None:
            problems.append(f"{name + SHAPE} is missing")
        elif scale is None:
            problems.append(f"{name + SCALE} is missing")
        elif scale.shape[0] != shape[0] or shape[1] % scale.shape[1]:
            problems.append(f"{name} of shape {shape} cannot have scales of {scale.shape}")
        elif packed and packed.shape not in [(shape[0], -(-shape[1] // each)) for each in PACKED_TOGETHER]:
            problems.append(f"{packed.name} of shape {packed.shape} cannot hold {shape[0]} × {shape[1]} integers")
    return problems


def adapter(patient: Patient) -> Iterator[Finding]:
    """The adapter changes modules that there are, all of those that it aims at, and none outside the decoder."""
    folder = patient.path / ADAPTER_FOLDER
    if not (folder / ADAPTER_CONFIG).is_file() or not (folder / ADAPTER_WEIGHTS).is_file():
        return  # missing files have a check of their own
    try:
        patient.adapter = read_object(folder / ADAPTER_CONFIG)
        entries = read_header(folder / ADAPTER_WEIGHTS)
    except CheckpointError as error:
        yield Finding(str(error))
        return
    if patient.adapter.get("peft_type") != "LORA":
        yield Finding(f"the adapter is of type {patient.adapter.get('peft_type')}: only LORA is loaded")
        return
    patient.factors = {hub_name(entry.name.removeprefix("base_model.model.")): entry for entry in entries}
    if patient.architecture is not None:
        problems = _misfits(patient, patient.architecture, patient.adapter)
        if problems:
            yield Finding(f"the adapter does not fit: {first_of(problems)}")
    if outside := outside_the_decoder(patient.factors):
        message = (
            f"the adapter reaches tower and projector, such as {outside[0]}: loading it for a request ends vLLM; "
            "export it merged, or adapt the decoder alone"
        )
        yield Finding(message, blocks=("vllm",))


def _misfits(patient: Patient, architecture: Architecture, settings: dict[str, Any]) -> list[str]:
    rank = settings.get("r")
    wanted: dict[str, tuple[Any, ...]] = {}
    for name, shape in architecture.shapes().items():
        module = name.removesuffix(".weight")
        if is_linear(name, shape) and is_target(memory_name(module), settings):
            wanted[f"{module}.lora_A.weight"] = (rank, shape[1])
            wanted[f"{module}.lora_B.weight"] = (shape[0], rank)
    if not wanted:
        return [f"no module is called {settings.get('target_modules')}"]
    found = {name: entry.shape for name, entry in patient.factors.items()}
    return [
        *(f"{name} is missing" for name in wanted if name not in found),
        *(f"{name} belongs to none of its target modules" for name in found if name not in wanted),
        *(
            f"{name} has shape {found[name]}, not {shape}"
            for name, shape in wanted.items()
            if name in found and found[name] != shape
        ),
    ]


def is_skipped(module: str, skipped: list[str]) -> bool:
    """Whether transformers leaves a module (its name in memory) plain when it prepares a model for 4-bit weights."""
    return any(re.match(entry, module) or module.endswith(entry) for entry in skipped)


def is_listed(module: str, entries: list[str]) -> bool:
    """Whether a list of compressed-tensors' has a module, by its name on disk as by that in memory."""
    names = (module, memory_name(module))
    return any(
        all(re.match(entry.removeprefix("re:"), name) for name in names) if entry.startswith("re:") else entry in names
        for entry in entries
    )


def is_target(module: str, settings: dict[str, Any]) -> bool:
    """Whether peft adapts a linear module (its name in memory, not lm_head's) under an adapter's settings."""

    def fits(patterns: str | list[str] | None) -> bool:
        if isinstance(patterns, str):
            return patterns == "all-linear" or re.fullmatch(patterns, module) is not None
        return any(module == pattern or module.endswith(f".{pattern}") for pattern in patterns or [])

    return fits(settings.get("target_modules")) and not fits(settings.get("exclude_modules"))
