"""The parts of the model that the search drives itself: layers one at a time, over embeddings that it lays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress.decoding import end_tokens
from compress.model import decoder_layers
from compress.prompt import Prompt

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

KeyValue = tuple[Tensor, Tensor]  # each of shape (rows, heads, slots, head_dim)
Rotation = tuple[Tensor, Tensor]  # rotary embeddings: cos, sin


@dataclass(frozen=True)
class Embedded:
    """A chunk of prompts in front of the first layer.

    Attributes:
        head: what all prompts begin with, shape (1, n_head, hidden).
        body: the rest, audio and instruction, right-padded, shape (rows, width, hidden).
        n_slots: tokens of each prompt, head included, shape (rows,).
    """

    head: Tensor
    body: Tensor
    n_slots: Tensor


class Network:
    """A decoder behind its prompt.

    Args:
        model: the whole model; it is never changed.
        processor: only the tokenizer is used.
        prompt: the same for all utterances.

    Attributes:
        layers: all of them, in order.
        ends: tokens that end a translation.
    """

    def __init__(
        self, model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, prompt: Prompt
    ) -> None:
        tokenizer = processor.tokenizer
        self.layers: Sequence[Any] = list(decoder_layers(model))
        self.ends = end_tokens(model, tokenizer)
        self._model = model
        self._decoder = model.model.language_model
        self._head, self._tail = (
            torch.tensor(tokenizer.encode(text, add_special_tokens=False), device=model.lm_head.weight.device)
            for text in (prompt.before, prompt.after)
        )

    def prompts(self, audio: Sequence[Tensor]) -> Embedded:
        """Prompts around encoder outputs, shape (n_audio_tokens, d_model) each."""
        tail = self.embed(self._tail)
        rows = [torch.cat([self._model.model.multi_modal_projector(clip), tail]) for clip in audio]
        n_slots = self._tail.new_tensor([len(self._head) + len(row) for row in rows])
        return Embedded(self.embed(self._head)[None], nn.utils.rnn.pad_sequence(rows, batch_first=True), n_slots)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings of token ids, with one dimension more."""
        found: Tensor = self._model.get_input_embeddings()(tokens)
        return found

    def rotation(self, hidden: Tensor, slots: Tensor) -> Rotation:
        """Rotary embeddings of slots, shape (rows or 1, n), in the dtype of `hidden`."""
        cos, sin = self._decoder.rotary_emb(hidden, slots)
        return cos, sin

    def predict(self, hidden: Tensor) -> Tensor:
        """The likeliest next tokens, shape (rows,), behind what leaves the top layer, shape (rows, hidden)."""
        scores: Tensor = self._model.lm_head(self._decoder.norm(hidden))
        return scores.argmax(-1)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Mask to add to attention scores."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, torch.finfo(dtype).min)
