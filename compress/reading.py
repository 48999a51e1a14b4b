"""Prompts, with speech in them, on their way through the decoder: what every row of a `Decoding` begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from compress.key_values import Kept, KeyValue, KeyValues
from compress.prompt import Prompt

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor


@dataclass(frozen=True)
class Reading:
    """Prompts that the decoder has read: what rows of a `Decoding` begin with.

    Attributes:
        key_values: by layer, right-padded, shape (rows, heads, slots, head_dim) each.
        n_tokens: of each prompt, audio included.
        next: the token that follows each prompt.
    """

    key_values: list[KeyValue]
    n_tokens: list[int]
    next: list[int]


@dataclass(frozen=True)
class Prefix:
    """What stands before the audio, read once for all prompts that begin with it.

    Attributes:
        text: all of it.
        key_values: by layer, shape (1, heads, tokens, head_dim) each; no layers if nothing was read.
        n_tokens: how many those are.
    """

    text: str = ""
    key_values: Sequence[KeyValue] = ()
    n_tokens: int = 0


_NOTHING: Final = Prefix()


@torch.inference_mode()
def read_prefix(model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, prompt: Prompt) -> Prefix:
    """Runs the text before a prompt's audio; it looks at nothing that follows."""
    hidden = model.get_input_embeddings()(_token_ids(processor.tokenizer, prompt.before, model.device))
    kept = _run(model, hidden[None], _NOTHING)[1]
    return Prefix(prompt.before, kept.layers, len(hidden))


@torch.inference_mode()
def read(
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    audio: Sequence[Tensor],
    prompts: Sequence[Prompt],
    prefix: Prefix = _NOTHING,
) -> Reading:
    """Runs prompts (prefill).  Changes nothing, so any thread may do it while another decodes.

    Args:
        model: the translator.
        processor: its processor; only the tokenizer is used.
        audio: encoder output per clip, shape (n_audio_tokens, d_model), see `encode`.
        prompts: one per clip.
        prefix: what all of them begin with, if that has been read.
    """
    assert all(prefix.text in ("", prompt.before) for prompt in prompts), "they begin with something else"
    unread = [replace(prompt, before=prompt.before.removeprefix(prefix.text)) for prompt in prompts]
    rows = [embed_prompt(model, processor.tokenizer, *pair) for pair in zip(audio, unread, strict=True)]
    lengths = torch.tensor([len(row) for row in rows])
    hidden, kept = _run(model, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), prefix)
    last = hidden[torch.arange(len(rows)), lengths - 1]
    return Reading(kept.layers, (prefix.n_tokens + lengths).tolist(), likeliest(model, last))


def _run(model: Qwen2AudioForConditionalGeneration, hidden: Tensor, prefix: Prefix) -> tuple[Tensor, Kept]:
    """What leaves the top layer behind a prefix, and all keys and values; rows may be right-padded."""
    slots = torch.arange(prefix.n_tokens + hidden.shape[1], device=hidden.device)
    positions = slots[prefix.n_tokens :]
    kept = Kept(prefix.key_values)
    # padding is behind the tokens, so the causal mask hides it
    mask = additive(slots <= positions[:, None], hidden.dtype)[None, None]
    return run_layers(model, hidden, positions[None], mask, kept), kept


def run_layers(
    model: Qwen2AudioForConditionalGeneration, hidden: Tensor, positions: Tensor, mask: Tensor, cache: KeyValues | Kept
) -> Tensor:
    """All decoder layers; without the model around them, masks and rotary embeddings are made here, and once."""
    decoder = model.model.language_model
    rotation = decoder.rotary_emb(hidden, positions)
    for layer in decoder.layers:
        hidden = layer(hidden, attention_mask=mask, past_key_values=cache, position_embeddings=rotation)
    return hidden


def likeliest(model: Qwen2AudioForConditionalGeneration, hidden: Tensor) -> list[int]:
    """The likeliest next tokens behind what leaves the top layer, shape (rows, hidden)."""
    found: list[int] = model.lm_head(model.model.language_model.norm(hidden)).argmax(-1).tolist()
    return found


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Mask to add to attention scores."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, torch.finfo(dtype).min)


@torch.inference_mode()
def embed_prompt(model: Qwen2AudioForConditionalGeneration, tokenizer: Any, audio: Tensor, prompt: Prompt) -> Tensor:
    """Embeddings of one prompt with its audio in place, shape (tokens, hidden)."""
    embed = model.get_input_embeddings()
    projected = model.model.multi_modal_projector(audio)
    before, after = (embed(_token_ids(tokenizer, text, projected.device)) for text in (prompt.before, prompt.after))
    return torch.cat([before, projected, after])


def _token_ids(tokenizer: Any, text: str, device: torch.device) -> Tensor:
    return torch.tensor(tokenizer.encode(text, add_special_tokens=False), dtype=torch.long, device=device)
