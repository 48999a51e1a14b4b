"""Run by `llm_compressor` in an environment of its own, whose only importer this is: quantises a decoder's weights.

It imports nothing of this package, and is told in a file of JSON what to do:

    checkpoint  directory of a plain checkpoint in hub layout
    inputs      safetensors file of what the decoder reads, each of shape (n_tokens, width); null for round to nearest
    scheme      compressed-tensors' settings of weights and activations
    out         directory for the decoder's weights, in compressed-tensors' format under the names of a language model
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, Qwen2AudioForConditionalGeneration, Qwen2ForCausalLM


def main(job: dict[str, Any]) -> None:
    """Quantises, and writes the result."""
    checkpoint = Path(job["checkpoint"])
    decoder = load_decoder(checkpoint)
    settings = {"config_groups": {"group_0": job["scheme"]}, "ignore": ["lm_head"]}
    if job["inputs"] is None:
        oneshot(model=decoder, recipe=QuantizationModifier(**settings))
    else:
        rows: Any = [{"inputs_embeds": row[None]} for _, row in sorted(load_file(job["inputs"]).items())]
        oneshot(
            model=decoder,
            processor=AutoTokenizer.from_pretrained(checkpoint),
            recipe=GPTQModifier(**settings),
            dataset=DataLoader(rows, batch_size=None),
            num_calibration_samples=len(rows),
            pipeline="sequential",  # each layer sees what the quantised ones before it make of the inputs
        )
    decoder.save_pretrained(job["out"], save_compressed=True)


def load_decoder(checkpoint: Path) -> Qwen2ForCausalLM:
    """The decoder as a language model: the whole model cannot be traced."""
    whole = Qwen2AudioForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16, local_files_only=True)
    with torch.device("meta"):
        decoder = Qwen2ForCausalLM(whole.config.text_config)
    decoder.model, decoder.lm_head = whole.model.language_model, whole.lm_head
    decoder.config.name_or_path = str(checkpoint)  # where the tool looks for whether it is quantised already
    decoder.eval()
    return decoder


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
