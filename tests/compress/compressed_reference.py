"""Run in llm-compressor's environment: a checkpoint's weights as transformers and compressed-tensors make them plain.

python -I compressed_reference.py CHECKPOINT OUT.safetensors
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file
from transformers import CompressedTensorsConfig, Qwen2AudioForConditionalGeneration

model = Qwen2AudioForConditionalGeneration.from_pretrained(
    sys.argv[1], dtype=torch.bfloat16, quantization_config=CompressedTensorsConfig(dequantize=True)
)
save_file({name: weight.contiguous() for name, weight in model.state_dict().items()}, sys.argv[2])
