"""Models that never end a translation, so that what is timed is as long as it was asked to be."""

from __future__ import annotations

import torch
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress.decoding import end_tokens


@torch.no_grad()
def never_end(model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor) -> None:
    """Has every token that ends a translation, or that the tokenizer does not know, score 0, where others score more.

    In place; it costs the model nothing, and its texts their meaning.
    """
    weight = model.lm_head.weight
    weight[sorted(end_tokens(model, processor.tokenizer))] = 0
    weight[len(processor.tokenizer) :] = 0
