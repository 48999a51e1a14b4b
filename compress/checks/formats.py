"""Quantised weights and adapters: what the settings say against what the files hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from compress.checkpoint import ADAPTER_CONFIG, ADAPTER_FOLDER, ADAPTER_WEIGHTS, read_object
from compress.checks.patient import Finding, Patient, first_of, outside_the_decoder
from compress.errors import CheckpointError
from compress.weights.architectures import Architecture, is_linear
from compress.weights.key_layout import hub_name, memory_name
from compress.weights.size import read_header

_LM_HEAD: Final = "language_model.lm_head.weight"


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
        yield from _compressed_tensors(settings)
    else:
        yield Finding(f"quantization_config is for {method}, which nothing here can load")
    if outside := outside_the_decoder(patient.nf4):
        message = (
            f"{len(outside)} weights of tower and projector are in nf4, such as {outside[0]}: vLLM loads these plain "
            "only; quantise the decoder alone, or export bf16"
        )
        yield Finding(message, blocks=("vllm",))


def _bitsandbytes(patient: Patient, settings: dict[str, Any]) -> Iterator[Finding]:
    if patient.architecture is None or not patient.entries:
        return
    skipped = settings.get("llm_int8_skip_modules") or ["lm_head"]
    modules = {
        name: memory_name(name).removesuffix(".weight")
        for name, shape in patient.architecture.shapes().items()
        if is_linear(name, shape) or name == _LM_HEAD
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


def _compressed_tensors(settings: dict[str, Any]) -> Iterator[Finding]:
    for entry in settings.get("ignore") or []:
        if not str(entry).startswith("re:"):
            message = (
                f"quantization_config.ignore has {entry}, a name on disk, which transformers does not match: write "
                "regular expressions, such as re:.*lm_head"
            )
            yield Finding(message, blocks=("transformers",))


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


def is_target(module: str, settings: dict[str, Any]) -> bool:
    """Whether peft adapts a linear module (its name in memory, not lm_head's) under an adapter's settings."""

    def fits(patterns: str | list[str] | None) -> bool:
        if isinstance(patterns, str):
            return patterns == "all-linear" or re.fullmatch(patterns, module) is not None
        return any(module == pattern or module.endswith(f".{pattern}") for pattern in patterns or [])

    return fits(settings.get("target_modules")) and not fits(settings.get("exclude_modules"))
