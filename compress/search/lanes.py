"""Decoding a model without one of its layers, for several such layers at once.

Candidates read their prompts one after the other (`prompts`); from the first token on, the unfinished rows of all of
them step together, each skipping its own layer: passes over few rows cost nearly what passes over many do.  Rows are
right-padded, so a token's slot in the cache is its position.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from compress.search.network import KeyValue, Network, additive
from compress.search.prompts import Prompts, Reading

_STEPS_BETWEEN_CHECKS: Final = 16
_SPARE_SLOTS: Final = 32


class Lane:
    """One candidate's way through one chunk.

    Attributes:
        skip: the layer it lacks.
        ids: token ids of its translations so far, end of turn excluded.
        open: rows that are unfinished.
        next: each row's token that follows.
    """

    def __init__(self, skip: int, reading: Reading, n_slots: Tensor, following: list[int], ends: set[int]) -> None:
        self.skip = skip
        self.reading = reading
        self.n_slots = n_slots
        self.next = following
        self.ids: list[list[int]] = [[] for _ in following]
        self.open = [row for row, token in enumerate(following) if token not in ends]

    @property
    def n_bytes(self) -> int:
        """Keys and values of the prompts."""
        return sum(part.nbytes for pair in self.reading.cache.values() for part in pair)

    def key_value(self, layer: int) -> KeyValue:
        """Of the prompts' slots; in its own gap a lane gives some other layer's, which nobody uses."""
        cache = self.reading.cache
        return cache.get(layer) or next(iter(cache.values()))


class Decoder:
    """Finishes candidates together.

    Args:
        network: whose layers are skipped.
        max_new_tokens: a translation ends after this many tokens at the latest.
    """

    def __init__(self, network: Network, max_new_tokens: int) -> None:
        self._network = network
        self._max_new_tokens = max_new_tokens

    @torch.inference_mode()
    def open(self, prompts: Prompts, removed: Collection[int], skip: int) -> Lane:
        """A candidate that has read its prompts, and lacks `skip` besides what is removed already."""
        reading = prompts.read({*removed, skip})
        following = self._network.predict(reading.last).tolist()
        return Lane(skip, reading, prompts.n_slots, following, self._network.ends)

    @torch.inference_mode()
    def finish(self, lanes: Sequence[Lane], given_up: Callable[[Lane], bool]) -> None:
        """Decodes all unfinished rows to their end; a lane that is `given_up` on the way is left as it is.

        Args:
            lanes: without the same layers, but for the one that each lacks itself; of any chunks.
            given_up: asked now and then.
        """
        batch = _Batch.of(lanes, len(self._network.layers))
        for number in itertools.count(1):
            batch.append(self._max_new_tokens)
            if number % _STEPS_BETWEEN_CHECKS == 0:
                batch.drop([lane for lane in lanes if lane.open and given_up(lane)])
            if not batch.compact():
                return
            batch.take(self._step(batch), self._network.ends)

    def _step(self, batch: _Batch) -> list[int]:
        """One more token of every row."""
        device = batch.length.device
        slots = batch.make_room()
        hidden = self._network.embed(torch.tensor(batch.tokens, device=device))[:, None]
        positions = self._network.rotation(hidden, batch.length[:, None])
        mask = additive(torch.arange(slots, device=device) <= batch.length[:, None], hidden.dtype)[:, None, None]
        for layer in batch.stack:
            changed = self._network.layers[layer](
                hidden, attention_mask=mask, past_key_values=batch, position_embeddings=positions
            )
            hidden = torch.where((batch.skip == layer)[:, None, None], hidden, changed)
        batch.length += 1
        return self._network.predict(hidden[:, 0]).tolist()


class _Batch:
    """Unfinished rows of several lanes, each with its own length and its own layer to skip."""

    def __init__(self, rows: list[tuple[Lane, int]], length: Tensor, skip: Tensor, cache: dict[int, KeyValue]) -> None:
        self.rows = rows
        self.alive = [True] * len(rows)
        self.tokens = [lane.next[row] for lane, row in rows]
        self.length = length
        self.skip = skip
        self.stack = tuple(cache)
        self._cache = cache

    @classmethod
    def of(cls, lanes: Sequence[Lane], n_layers: int) -> _Batch:
        """All unfinished rows of lanes."""
        busy = [lane for lane in lanes if lane.open]
        rows = [(lane, row) for lane in busy for row in lane.open]
        device = lanes[0].n_slots.device
        length = torch.tensor([int(lane.n_slots[row]) for lane, row in rows], device=device)
        skip = torch.tensor([lane.skip for lane, _ in rows], device=device)
        cache = {}
        for layer in range(n_layers):
            if any(layer in lane.reading.cache for lane in busy):
                held = [lane.key_value(layer) for lane in busy]
                cache[layer] = (
                    _stacked([(key, lane.open) for (key, _), lane in zip(held, busy, strict=True)]),
                    _stacked([(value, lane.open) for (_, value), lane in zip(held, busy, strict=True)]),
                )
        return cls(rows, length, skip, cache)

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any) -> KeyValue:
        """What transformers' attention calls: writes each row's new slot."""
        keys, values = self._cache[layer]
        n = len(self.length)
        rows = torch.arange(n, device=keys.device)
        keys[rows, :, self.length] = key[:, :, 0]
        values[rows, :, self.length] = value[:, :, 0]
        return keys[:n, :, : self._slots], values[:n, :, : self._slots]

    def make_room(self) -> int:
        """Makes sure that every row has a slot for its next token; how many slots are in use."""
        self._slots = int(self.length.max()) + 1
        if self._slots > next(iter(self._cache.values()))[0].shape[2]:
            n, room = len(self.length), (0, 0, 0, _SPARE_SLOTS)
            for layer, (key, value) in self._cache.items():
                self._cache[layer] = (nn.functional.pad(key[:n], room), nn.functional.pad(value[:n], room))
        return self._slots

    def append(self, limit: int) -> None:
        """Adds each row's token to its translation; one of `limit` tokens is finished."""
        for i, (lane, row) in enumerate(self.rows):
            if self.alive[i]:
                lane.ids[row].append(self.tokens[i])
                if len(lane.ids[row]) >= limit:
                    self._end(i)

    def take(self, tokens: list[int], ends: Collection[int]) -> None:
        """Each row's next token; some end it."""
        self.tokens = tokens
        for i, token in enumerate(tokens):
            if self.alive[i] and token in ends:
                self._end(i)

    def drop(self, lanes: Collection[Lane]) -> None:
        """Leaves some lanes' rows as they are."""
        for i, (lane, _) in enumerate(self.rows):
            if lane in lanes:
                self.alive[i] = False

    def compact(self) -> bool:
        """Has rows from the end take the places of those that are done, as copying all would cost more; is any left?"""
        n_left = sum(self.alive)
        free = [i for i in range(n_left) if not self.alive[i]]
        moved = [i for i in range(n_left, len(self.alive)) if self.alive[i]]
        for i, j in zip(free, moved, strict=True):
            self.rows[i], self.tokens[i] = self.rows[j], self.tokens[j]
        if free:
            to, at = (torch.tensor(places, device=self.length.device) for places in (free, moved))
            for tensor in (self.length, self.skip, *itertools.chain(*self._cache.values())):
                tensor[to] = tensor[at]
        self.rows, self.tokens, self.alive = self.rows[:n_left], self.tokens[:n_left], [True] * n_left
        self.length, self.skip = self.length[:n_left], self.skip[:n_left]
        return n_left > 0

    def _end(self, i: int) -> None:
        lane, row = self.rows[i]
        self.alive[i] = False
        lane.open.remove(row)


def _stacked(parts: list[tuple[Tensor, list[int]]]) -> Tensor:
    """Some rows each of several caches, padded to the same number of slots and some to spare."""
    first = parts[0][0]
    slots = max(part.shape[2] for part, _ in parts) + _SPARE_SLOTS
    whole = first.new_zeros(sum(len(rows) for _, rows in parts), first.shape[1], slots, first.shape[3])
    start = 0
    for part, rows in parts:
        whole[start : start + len(rows), :, : part.shape[2]] = part[rows]
        start += len(rows)
    return whole
