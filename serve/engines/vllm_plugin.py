"""What vLLM calls in each of its processes wherever this package is installed (entry point `vllm.general_plugins`)."""

from __future__ import annotations


def register() -> None:
    """Has Qwen2-Audio checkpoints loaded by `vllm_model`, behind this package's engine and plain `vllm serve` alike."""
    from vllm import ModelRegistry

    # by name, so that a process that only reads a configuration need not import torch
    ModelRegistry.register_model("Qwen2AudioForConditionalGeneration", "serve.engines.vllm_model:Qwen2Audio")
