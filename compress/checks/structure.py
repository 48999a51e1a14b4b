"""Files, names, numbers of layers, shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from compress.checkpoint import ADAPTER_CONFIG, ADAPTER_FOLDER, missing_files, read_object, unsafe_files
from compress.checks.patient import Finding, Patient, first_of
from compress.errors import CheckpointError
from compress.weights.architectures import Architecture, Shape
from compress.weights.entries import read_header
from compress.weights.key_layout import KeyLayout, hub_name, layout_of
from compress.weights.schemes import METHOD, weight_of

_NAMED: Final = ("bitsandbytes", METHOD)
_INDEX: Final = "model.safetensors.index.json"
_LAYER: Final = re.compile(r"(audio_tower|language_model\.model)\.layers\.(\d+)\.")


def files(patient: Patient) -> Iterator[Finding]:
    """Everything that is no weight is there, and where it belongs."""
    for name in missing_files(patient.path):
        yield Finding(f"{name} is missing")
    if (patient.path / ADAPTER_CONFIG).exists():
        yield Finding(f"{ADAPTER_CONFIG} lies beside the weights: an adapter belongs in {ADAPTER_FOLDER}/")


def safetensors_only(patient: Patient) -> Iterator[Finding]:
    """Nothing is there that runs code when it is read."""
    for name in unsafe_files(patient.path):
        yield Finding(f"{name} can run code when it is read: keep weights as safetensors, and no code")


def configuration(patient: Patient) -> Iterator[Finding]:
    """`config.json` configures a Qwen2-Audio."""
    try:
        patient.architecture = Architecture.read(patient.path)
        patient.config = read_object(patient.path / "config.json")
    except CheckpointError as error:
        yield Finding(str(error))


def weights(patient: Patient) -> Iterator[Finding]:
    """There are weights, their headers can be read, and no tensor is there twice."""
    paths = sorted(patient.path.glob("*.safetensors"))
    if not paths:
        yield Finding("there are no *.safetensors weights")
    if len(paths) > 1 and not (patient.path / _INDEX).is_file():
        yield Finding(f"{len(paths)} files of weights, and no {_INDEX} that says which holds what")
    for path in paths:
        try:
            entries = read_header(path)
        except CheckpointError as error:
            yield Finding(str(error))
            continue
        for entry in entries:
            name = hub_name(entry.name)
            if name in patient.entries:
                yield Finding(f"{name} is stored twice, the second time in {path.name}: one of them is stale")
            patient.stored.append(entry.name)
            patient.entries[name] = entry


def key_layout(patient: Patient) -> Iterator[Finding]:
    """Tensors are called what they are called on the hub; every engine here reads the other names too."""
    layouts = {layout_of(name) for name in patient.stored}
    for layout in sorted(layouts - {KeyLayout.HUB}):
        example = next(name for name in patient.stored if layout_of(name) is layout)
        message = (
            f"{example} and others are not called as on the hub, {hub_name(example)}: transformers understands that, "
            "and vLLM does with this package installed beside it; exporting renames them"
        )
        yield Finding(message, blocks=())


def layers(patient: Patient) -> Iterator[Finding]:
    """The files hold as many layers as are configured, numbered from 0."""
    if patient.architecture is None or not patient.entries:
        return
    found: dict[str, set[int]] = {"audio_tower": set(), "language_model.model": set()}
    for name in patient.entries:
        if match := _LAYER.match(name):
            found[match[1]].add(int(match[2]))
    for part, key, wanted in (
        ("audio_tower", "audio_config.encoder_layers", patient.architecture.n_tower_layers),
        ("language_model.model", "text_config.num_hidden_layers", patient.architecture.n_layers),
    ):
        numbers = found[part]
        if len(numbers) != wanted:
            yield Finding(f"the files hold {len(numbers)} layers of {part}, and {key} is {wanted}")
        elif numbers != set(range(wanted)):
            gap = min(set(range(wanted)) - numbers)
            yield Finding(f"the {wanted} layers of {part} are not numbered 0 to {wanted - 1}: there is no {gap}")


def layer_types(patient: Patient) -> Iterator[Finding]:
    """There is a type for each layer of the decoder, if there are types."""
    types = patient.config.get("text_config", {}).get("layer_types")
    if patient.architecture is None or not isinstance(types, list):
        return
    if len(types) != patient.architecture.n_layers:
        yield Finding(f"text_config.layer_types has {len(types)} entries for {patient.architecture.n_layers} layers")


def tensors(patient: Patient) -> Iterator[Finding]:
    """Every tensor of the model is there, of the configured shape, and no other.

    Left out where numbers of layers differ, which says it better, and for formats with other names.
    """
    method = (patient.quantisation or {}).get("quant_method", "bitsandbytes")
    if patient.architecture is None or not patient.entries or method not in _NAMED or any(layers(patient)):
        return
    shapes = patient.architecture.shapes()
    held: dict[str, Shape | None] = {
        name: entry.shape for name, entry in patient.entries.items() if ".weight." not in name and not weight_of(name)
    }
    held |= patient.compressed
    problems = [f"{name} is missing" for name in shapes if name not in held]
    problems += [f"{name} belongs to nothing" for name in held if name not in shapes]
    problems += [
        f"{name} has shape {held[name]}, and config.json asks for {shape}"
        for name, shape in shapes.items()
        if name in held and name not in patient.nf4 and held[name] not in (shape, None)  # what is None, `formats` says
    ]
    if problems:
        yield Finding(first_of(problems))
