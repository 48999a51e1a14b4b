"""Checkpoints in the layouts that vLLM has kernels for: the decoder in 4 or 8 bits, tower and projector plain.

Weights are rounded by llm-compressor (`llm_compressor`), which is shown what the decoder of this very checkpoint reads
when it is trained: the prompt with speech in it, and the reference translation.  Embeddings and lm_head stay plain, or
are rounded to the nearest value of 8 bits here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compress import decoding, llm_compressor
from compress.checkpoint import Checkpoint, read_object
from compress.clips import named
from compress.errors import CheckpointError, RecipeError
from compress.prompt import END_OF_TURN, Prompt
from compress.reading import embed_prompt
from compress.recipe_stages import Export
from compress.training.collate import TrainingExample
from compress.weights import compressed_tensors, schemes, storage
from compress.weights.architectures import Architecture
from compress.weights.storage import Form

_CONFIG: Final = "config.json"
_END: Final = f"{END_OF_TURN}\n"
_PLAIN: Final = "plain"
_DECODER: Final = "decoder"


def check(stage: Export, environment: Path = llm_compressor.ENVIRONMENT) -> None:
    """Finds out whether `write` has a chance, where the stage needs it.

    Raises:
        RecipeError: no llm-compressor in `environment`.
    """
    if stage.layout in schemes.LAYOUTS:
        llm_compressor.require(environment)


def chosen(examples: Sequence[TrainingExample], n: int) -> list[TrainingExample]:
    """So many of the examples, or all, from everywhere among them: neighbours may be of one recording."""
    n = min(n, len(examples))
    return [examples[i * len(examples) // n] for i in range(n)]


def write(
    stage: Export,
    source: Checkpoint,
    directory: Path,
    examples: Sequence[TrainingExample],
    prompt: Prompt,
    environment: Path = llm_compressor.ENVIRONMENT,
) -> None:
    """Writes weights, configuration, tokenizer and processor; no lineage, no card.

    Args:
        stage: which layout, and what embeddings are in.
        source: what to export.
        directory: where to; what is written on the way goes again.
        examples: what weights are rounded for; none are needed where the nearest value is taken.
        prompt: how the model is asked.
        environment: where llm-compressor is installed.

    Raises:
        RecipeError: no llm-compressor, no examples where they are needed, or a sound that cannot be used.
        CheckpointError: the decoder's widths have no such layout, or llm-compressor failed.
    """
    if stage.layout not in schemes.LAYOUTS:
        raise ValueError(f"{stage.layout} is written by `storage`")
    if stage.n_calibration and not examples:
        raise RecipeError(f"layout {stage.layout} learns how to round from training data: name a recipe that has some")
    llm_compressor.require(environment)
    scheme = schemes.scheme(stage.layout, Architecture.read(source.path))
    work = directory / "work"
    storage.rewrite(source, work / _PLAIN, Form(None, torch.bfloat16, merge=stage.merge))
    plain = Checkpoint.open(work / _PLAIN)
    inputs = decoder_inputs(plain, examples, prompt) if stage.n_calibration else []
    llm_compressor.quantise(plain.path, scheme, inputs, work / _DECODER, environment)
    _assemble(stage, plain.path, work / _DECODER, directory)
    shutil.rmtree(work)


@torch.inference_mode()
def decoder_inputs(checkpoint: Checkpoint, examples: Sequence[TrainingExample], prompt: Prompt) -> list[Tensor]:
    """What the decoder reads when it is trained on examples, shape (n_tokens, width) each, in bf16.

    Raises:
        RecipeError: a sound cannot be used; the message names the example.
    """
    model, processor = checkpoint.load_for_inference(), checkpoint.load_processor()
    embed, tokenizer = model.get_input_embeddings(), processor.tokenizer
    inputs = []
    for example in examples:
        with named(example):
            (audio,) = decoding.encode(model, decoding.log_mel(processor, [example.audio.load()]))
        asked = embed_prompt(model, tokenizer, audio, prompt)
        # tokenised apart, as in training
        answer = [tokenizer.encode(part, add_special_tokens=False) for part in (example.target.strip(), _END)]
        answered = embed(torch.tensor(answer[0] + answer[1], device=asked.device))
        inputs.append(torch.cat([asked, answered]).to("cpu", torch.bfloat16))
    return inputs


def _assemble(stage: Export, plain: Path, decoder: Path, directory: Path) -> None:
    """Puts quantised weights in the place of a plain checkpoint's; all others stay, bit for bit."""
    shapes = Architecture.read(plain).shapes()
    quantised = {name for name, shape in shapes.items() if schemes.covers(name, shape)}
    made = {
        f"language_model.{name}": part
        for file in decoder.glob("*.safetensors")
        for name, part in load_file(file).items()
    }
    parts = {name: part for name, part in made.items() if (schemes.weight_of(name) or name) in quantised}
    if missing := quantised - {schemes.weight_of(name) for name in parts}:
        raise CheckpointError(f"llm-compressor has left {len(missing)} weights as they were, such as {min(missing)}")
    with storage.opened(plain) as stored:
        rest = {name: stored.tensor(name) for name in shapes if name not in quantised}
        if stage.embeddings == "int8":
            for name in schemes.EMBEDDINGS:
                rounded = compressed_tensors.quantise(rest.pop(name))
                parts |= {name + suffix: part for suffix, part in rounded.items()}
        save_file(rest | parts, directory / storage.WEIGHTS, metadata={"format": "pt"})
    settings: dict[str, Any] = read_object(decoder / _CONFIG)["quantization_config"] | {"ignore": list(schemes.IGNORED)}
    if stage.embeddings == "int8":
        settings = schemes.with_int8_embeddings(settings)
    content = read_object(plain / _CONFIG) | {"quantization_config": settings}
    (directory / _CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for file in plain.iterdir():
        if file.name not in (_CONFIG, storage.WEIGHTS):
            shutil.copy(file, directory)
