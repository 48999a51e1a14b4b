"""Prompts in front of every layer, computed once for all candidates and rounds that skip the same layers below it.

What enters layer l depends on which layers below l are skipped, and on nothing else.  So a candidate that lacks layer
k starts where the model as pruned so far stands in front of k; and in the round after layer c is gone, the candidate
that lacks k < c starts where it stood in front of c a round earlier.  States are kept under the layers skipped below
them; whoever reads prompts goes on from the highest state that is there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from compress.search.network import KeyValue, Network, Rotation, additive


@dataclass(frozen=True)
class Reading:
    """Prompts as one candidate reads them.

    Attributes:
        cache: keys and values of all slots, by layer.
        last: what leaves the top layer at each prompt's last slot, shape (rows, hidden).
    """

    cache: dict[int, KeyValue]
    last: Tensor


@dataclass
class _State:
    """In front of a layer; `key_value` is that layer's own, once it has been run."""

    head: Tensor
    body: Tensor
    key_value: KeyValue | None = None

    @property
    def n_bytes(self) -> int:
        return sum(part.nbytes for part in (self.head, self.body, *(self.key_value or ())))


class Prompts:
    """A chunk of utterances' prompts.

    Args:
        network: whose layers are run.
        audio: encoder outputs, shape (n_audio_tokens, d_model) each.
        keep_bytes: states of single candidates are kept for the next round up to this size; what the model pruned so
            far has computed is kept in any case, until `release`.
    """

    def __init__(self, network: Network, audio: Sequence[Tensor], keep_bytes: int) -> None:
        self._network = network
        self._audio = audio
        self._keep_bytes = keep_bytes
        self._removed: frozenset[int] = frozenset()
        self._held: dict[tuple[frozenset[int], int], _State] = {}

    def __len__(self) -> int:
        return len(self._audio)

    @torch.inference_mode()
    def read(self, skipped: Collection[int]) -> Reading:
        """Runs the layers that are not skipped, as far as nobody has before."""
        layers, left = self._network.layers, [i for i in range(len(self._network.layers)) if i not in skipped]
        below: frozenset[int] = frozenset()
        state = self._bottom()
        cache: dict[int, KeyValue] = {}
        for layer in range(left[-1]):
            if layer in skipped:
                below = below | {layer}
                following = self._held.get((below, layer + 1)) or _State(state.head, state.body)
            else:
                known = self._held.get((below, layer + 1))
                if known is None or state.key_value is None:
                    run = self._run(layers[layer], state)
                    following = known or run
                else:
                    following = known
                assert state.key_value is not None
                cache[layer] = state.key_value
            self._keep(below, layer + 1, following)
            state = following
        last, cache[left[-1]] = self._run_top(layers[left[-1]], state)
        return Reading(cache, last)

    def remove(self, removed: Collection[int]) -> None:
        """Forgets the states of those who do not lack what is gone by now: nobody starts there any more."""
        self._removed = frozenset(removed)
        self._held = {key: state for key, state in self._held.items() if self._below(key[1]) <= key[0]}

    def release(self) -> None:
        """Forgets everything that takes more room than there is."""
        if self._n_bytes() > self._keep_bytes:
            self._held.clear()

    @torch.inference_mode()
    def influence(self) -> Iterator[tuple[int, float]]:
        """Each layer's block influence (ShortGPT): 1 - cos between its input and output, summed over audio and text.

        Yields:
            The sum over the body's tokens, layer by layer, in the whole model.
        """
        state = self._bottom()
        width = torch.arange(state.body.shape[1], device=state.body.device)
        valid = width < (self.n_slots - state.head.shape[1])[:, None]
        for number, layer in enumerate(self._network.layers):
            following = self._run(layer, state)
            similar = nn.functional.cosine_similarity(state.body, following.body, dim=-1)[valid]
            yield number, float((1 - similar).sum())
            state = following

    @property
    def n_slots(self) -> Tensor:
        """Tokens of each prompt, shape (rows,)."""
        self._bottom()
        return self._n_slots

    def _bottom(self) -> _State:
        """In front of the first layer."""
        key = (frozenset[int](), 0)
        if key not in self._held:
            embedded = self._network.prompts(self._audio)
            self._n_slots = embedded.n_slots
            self._held[key] = _State(embedded.head, embedded.body)
        return self._held[key]

    def _below(self, layer: int) -> frozenset[int]:
        return frozenset(one for one in self._removed if one < layer)

    def _keep(self, below: frozenset[int], layer: int, state: _State) -> None:
        if below == self._below(layer) or self._n_bytes() + state.n_bytes <= self._keep_bytes:
            self._held[below, layer] = state

    def _n_bytes(self) -> int:
        return sum(state.n_bytes for state in self._held.values())

    def _run(self, layer: Any, state: _State) -> _State:
        """Runs a layer over the common head and the rows behind it; its keys and values stay with its input."""
        keep = _Keep()
        head_mask, body_mask, in_head, in_body = self._places
        head = layer(state.head, attention_mask=head_mask, past_key_values=keep, position_embeddings=in_head)
        body = layer(state.body, attention_mask=body_mask, past_key_values=keep, position_embeddings=in_body)
        state.key_value = keep.key_value()
        return _State(head, body)

    def _run_top(self, layer: Any, state: _State) -> tuple[Tensor, KeyValue]:
        """Runs the top layer, of which only each row's last slot is wanted, and the keys and values of all."""
        if state.key_value is None:
            state.key_value = self._key_value(layer.self_attn, layer.input_layernorm, state)
        slots = torch.arange(state.key_value[0].shape[2], device=state.body.device)
        ends = self.n_slots - 1
        rows = torch.arange(len(ends), device=ends.device)
        hidden = state.body[rows, ends - state.head.shape[1]][:, None]
        # the slot's own key and value are there already
        last: Tensor = layer(
            hidden,
            attention_mask=additive(slots <= ends[:, None], hidden.dtype)[:, None, None],
            past_key_values=_Kept(state.key_value),
            position_embeddings=self._network.rotation(hidden, ends[:, None]),
        )
        return last[:, 0], state.key_value

    def _key_value(self, attention: Any, norm: nn.Module, state: _State) -> KeyValue:
        _, _, in_head, in_body = self._places
        keep = _Keep()
        for hidden, (cos, sin) in ((state.head, in_head), (state.body, in_body)):
            normed, shape = norm(hidden), (*hidden.shape[:2], -1, attention.head_dim)
            key, value = (part(normed).view(shape).transpose(1, 2) for part in (attention.k_proj, attention.v_proj))
            keep.update(apply_rotary_pos_emb(key, key, cos, sin)[1], value)
        return keep.key_value()

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, Rotation, Rotation]:
        """Masks and rotary embeddings of head and body, the same in front of every layer."""
        state = self._bottom()
        n_head, width = state.head.shape[1], state.body.shape[1]
        slots = torch.arange(n_head + width, device=state.body.device)
        cos, sin = self._network.rotation(state.body, slots[None])
        causal = additive(slots <= slots[:, None], state.body.dtype)[None, None]
        return (
            causal[..., :n_head, :n_head],
            causal[..., n_head:, :],
            (cos[:, :n_head], sin[:, :n_head]),
            (cos[:, n_head:], sin[:, n_head:]),
        )


class _Keep:
    """The cache of one layer's reading: the head's keys and values in front of every row's."""

    def __init__(self) -> None:
        self._held: KeyValue | None = None

    def update(self, key: Tensor, value: Tensor, *_: Any) -> KeyValue:
        """What transformers' attention calls."""
        if self._held is not None:
            head_key, head_value = (part.expand(len(key), -1, -1, -1) for part in self._held)
            key, value = torch.cat([head_key, key], 2), torch.cat([head_value, value], 2)
        self._held = (key, value)
        return self._held

    def key_value(self) -> KeyValue:
        """Of all slots."""
        assert self._held is not None
        return self._held


@dataclass(frozen=True)
class _Kept:
    """A cache that holds what is asked for already."""

    key_value: KeyValue

    def update(self, key: Tensor, value: Tensor, *_: Any) -> KeyValue:
        """What transformers' attention calls."""
        del key, value
        return self.key_value
