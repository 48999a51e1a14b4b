"""Keys and values of rows that are decoded together, of different lengths, some joining and some leaving on the way.

Rows are right-padded, so a token's slot is its position.  One that joins is copied into spare room, and when one
leaves, the last row takes its place: neither touches the others, and what nobody uses any more costs no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

KeyValue = tuple[Tensor, Tensor]  # of one layer, each of shape (rows, heads, slots, head_dim)

_SPARE_SLOTS: Final = 32  # so that a growing row makes room once in as many tokens


class KeyValues:
    """What a decoder has computed of every row so far."""

    def __init__(self) -> None:
        self._layers: list[KeyValue] = []
        self._lengths: list[int] = []
        self._rows = self._slots = torch.empty(0, dtype=torch.long)  # where the pass now running writes

    def __len__(self) -> int:
        return len(self._lengths)

    def join(self, layers: Sequence[KeyValue], lengths: Sequence[int]) -> None:
        """Adds rows behind the others.

        Args:
            layers: right-padded; not to be used by the caller any more.
            lengths: slots of each row that count.
        """
        start = len(self._lengths)
        self._lengths += lengths
        if not start:
            self._layers = list(layers)
            return
        width = max(lengths)
        self._make_room(len(self._lengths), width)
        for held, new in zip(self._layers, layers, strict=True):
            for whole, part in zip(held, new, strict=True):
                whole[start : len(self._lengths), :, :width] = part[:, :, :width]

    def leave(self, row: int) -> None:
        """Removes a row; the last one takes its place.  With the last of all, the memory is given back."""
        last = len(self._lengths) - 1
        if row != last:
            for layer in self._layers:
                for whole in layer:
                    whole[row] = whole[last]
            self._lengths[row] = self._lengths[last]
        self._lengths.pop()
        if not self._lengths:
            self._layers = []

    def extend(self) -> tuple[Tensor, Tensor]:
        """Gives each row a slot for its next token, which one pass through the layers then fills.

        Returns:
            The tokens' positions, shape (rows, 1), and the slots that they may look at, shape (rows, slots).
        """
        device = self._layers[0][0].device
        self._rows = torch.arange(len(self._lengths), device=device)
        self._slots = torch.tensor(self._lengths, device=device)
        self._lengths = [length + 1 for length in self._lengths]
        width = max(self._lengths)
        self._make_room(len(self._lengths), width)
        return self._slots[:, None], torch.arange(width, device=device) <= self._slots[:, None]

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any) -> KeyValue:
        """What transformers' attention calls: keeps the new slot of each row, and returns all slots in use."""
        keys, values = self._layers[layer]
        keys[self._rows, :, self._slots] = key[:, :, 0]
        values[self._rows, :, self._slots] = value[:, :, 0]
        n_rows, width = len(self._lengths), max(self._lengths)
        return keys[:n_rows, :, :width], values[:n_rows, :, :width]

    def _make_room(self, n_rows: int, n_slots: int) -> None:
        """Rows at least double, since they join one by one."""
        rows, _, slots, _ = self._layers[0][0].shape
        more_rows = max(n_rows - rows, rows) if n_rows > rows else 0
        more_slots = n_slots - slots + _SPARE_SLOTS if n_slots > slots else 0
        if more_rows or more_slots:
            room = (0, 0, 0, more_slots, 0, 0, 0, more_rows)
            for i, (key, value) in enumerate(self._layers):
                self._layers[i] = nn.functional.pad(key, room), nn.functional.pad(value, room)


class Kept:
    """A cache for one pass over prompts: it keeps what each layer computes.

    Attributes:
        layers: filled as the layers are run.
    """

    def __init__(self, prefix: Sequence[KeyValue] = ()) -> None:
        """Begins with what the layers, if any are given, computed of a single row that all rows begin with."""
        self.layers: list[KeyValue] = []
        self._prefix = prefix

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any) -> KeyValue:
        """What transformers' attention calls."""
        if self._prefix:
            before = self._prefix[layer]
            key, value = (
                torch.cat([old.expand(len(new), -1, -1, -1), new], 2)
                for old, new in zip(before, (key, value), strict=True)
            )
        self.layers.append((key, value))
        return key, value
