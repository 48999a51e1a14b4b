"""A random model of the true architecture whose widths are whole blocks of nf4, on disk, plain and adapted.

An outside oracle is at hand for all that is made of it: transformers, bitsandbytes and peft do the same to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    BitsAndBytesConfig,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
)

from compress import model
from compress.checkpoint import ADAPTER_FOLDER, Checkpoint
from compress.recipe_stages import Optimisation, Qlora
from compress.weights import adapter, storage

RANK = 8
N_TOWER_LAYERS, N_LAYERS = 1, 3
# linear modules: per tower layer, the projector, per decoder layer
N_LINEARS = 6 * N_TOWER_LAYERS + 1 + 7 * N_LAYERS


def build(processor: Qwen2AudioProcessor, seed: int = 0) -> Qwen2AudioForConditionalGeneration:
    """The model in fp32, 0.7 million parameters."""
    config = Qwen2AudioConfig(
        audio_config={
            "num_mel_bins": 80,
            "encoder_layers": N_TOWER_LAYERS,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 128,
            "d_model": 64,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(processor.tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": N_LAYERS,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
        },
        audio_token_index=processor.audio_token_id,
    )
    torch.manual_seed(seed)
    built = Qwen2AudioForConditionalGeneration(config)
    for name, weight in built.named_parameters():
        if name.endswith("bias"):  # zero at first, where a wrong one would go unnoticed
            weight.data = 0.1 * torch.randn_like(weight)
        elif "language_model" in name:
            weight.data *= 3  # scores far enough apart that rounding never decides between two words
    built.eval()
    return built


def checkpoint(processor: Qwen2AudioProcessor, directory: Path, seed: int = 0) -> Checkpoint:
    """The model as the stages leave theirs: bf16, hub layout, with a lineage."""
    model.save(build(processor, seed), processor, directory, torch.bfloat16)
    storage.write_lineage(directory, {"name": "narrow", "layers": [0, 2, 3], "language": "de"})
    return Checkpoint.open(directory)


def quantised(source: Checkpoint, double: bool = True) -> Qwen2AudioForConditionalGeneration:
    """The checkpoint in nf4 as transformers loads it."""
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    loaded: Qwen2AudioForConditionalGeneration = Qwen2AudioForConditionalGeneration.from_pretrained(
        source.path, dtype=torch.bfloat16, quantization_config=settings, device_map="cpu"
    )
    return loaded


def stage(**settings: Any) -> Qlora:
    """Settings of a small adapter, trained for a moment."""
    optimisation = Optimisation(epochs=2, batch_size=2, learning_rate=1e-3, save_every=1, master_weights="fp32-only")
    return Qlora.model_validate({"stage": "qlora", "rank": RANK, "optimisation": optimisation, **settings})


def adapted(source: Checkpoint, directory: Path, settings: Qlora, form: storage.Form, seed: int = 1) -> Checkpoint:
    """The checkpoint in a form, with an adapter beside it that changes what it says."""
    storage.rewrite(source, directory, form)
    base = Checkpoint.open(directory).load_model("cpu", torch.float32)
    adapter.attach(base, settings)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in base.named_parameters():
        if "lora_B" in name:  # zero before training
            weight.data = 0.002 * torch.randn(weight.shape, generator=generator)
    adapter.save(base, directory / ADAPTER_FOLDER)
    storage.write_lineage(directory, source.descend("adapted", {"stage": "qlora"}))
    return Checkpoint.open(directory)


def tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its name on disk, the adapter's with its folder before it."""
    return {
        f"{file.parent.relative_to(directory)}/{name}".removeprefix("./"): tensor
        for file in sorted(directory.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def assert_same_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Names, dtypes, shapes and every bit."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@torch.inference_mode()
def scores(loaded: Qwen2AudioForConditionalGeneration) -> Tensor:
    """What a model makes of fixed audio states and token ids, shape (positions, vocabulary), fp32."""
    generator = torch.Generator().manual_seed(5)
    dtype = loaded.lm_head.weight.dtype
    mel = torch.randn(1, 80, 3000, generator=generator).to(dtype)
    audio = loaded.model.multi_modal_projector(loaded.model.audio_tower(mel).last_hidden_state[:, :7])
    ids = torch.randint(0, 5000, (1, 9), generator=generator)
    states = torch.cat([audio, loaded.get_input_embeddings()(ids)], 1)
    found: Tensor = loaded.lm_head(loaded.model.language_model(inputs_embeds=states).last_hidden_state)[0].float()
    return found
