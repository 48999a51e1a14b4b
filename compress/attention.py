"""Grouped-query attention on the CPU without copying keys and values.

With a mask, transformers repeats the keys and values for every query head of a group before it calls torch: right on
a GPU, where torch would else fall back to a slow kernel, and most of a decoding step's time on a CPU, whose kernel
takes groups as they are.  Same numbers, registered under a name of its own.
"""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED: Final = "sdpa_grouped"


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls for attention.

    Args:
        module: the attention module.
        query: shape (batch, heads, queries, head_dim).
        key: shape (batch, key_value_heads, keys, head_dim).
        value: as `key`.
        attention_mask: to add, or True where visible, broadcastable to (batch, heads, queries, keys).
        dropout: probability, in training.
        scaling: of the scores; one over the root of head_dim when absent.
        **options: what else transformers gives.

    Returns:
        Shape (batch, queries, heads, head_dim), and no attention weights.
    """
    if attention_mask is None or query.device.type != "cpu" or query.shape[1] == key.shape[1]:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return output, None
    rows, heads, queries, width = query.shape
    if queries == 1 and attention_mask.shape[1:3] == (1, 1):
        # the heads of a group stand for queries, so that the kernel reads each key and value once for all of them
        query = query.view(rows, key.shape[1], -1, width)
        output = scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
        )
        return output.view(rows, 1, heads, width), None
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)
