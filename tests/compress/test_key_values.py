from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.key_values import Kept, KeyValue, KeyValues

N_LAYERS, N_HEADS, WIDTH = 2, 3, 4

# what happens next: rows of these lengths join, the row at this place leaves, or all get a token
Event = list[int] | int | None
EVENTS = st.lists(st.one_of(st.lists(st.integers(1, 50), min_size=1, max_size=3), st.integers(0, 9), st.none()))


def numbers(n_rows: int, n_slots: int) -> list[KeyValue]:
    """Of all layers, no two numbers the same."""
    return [
        (torch.rand(n_rows, N_HEADS, n_slots, WIDTH), torch.rand(n_rows, N_HEADS, n_slots, WIDTH))
        for _ in range(N_LAYERS)
    ]


class Rows:
    """The same kept apart, row by row: of each row, layer by layer, keys and values."""

    def __init__(self) -> None:
        self.held: list[list[list[Tensor]]] = []

    def join(self, new: list[KeyValue], lengths: list[int]) -> None:
        for row, length in enumerate(lengths):
            self.held.append([[part[row, :, :length].clone() for part in layer] for layer in new])

    def leave(self, row: int) -> None:
        self.held[row] = self.held[-1]
        self.held.pop()

    def append(self, new: list[KeyValue]) -> None:
        for row, layers in enumerate(self.held):
            for layer, pair in enumerate(layers):
                layers[layer] = [torch.cat([part, new[layer][i][row]], 1) for i, part in enumerate(pair)]


@given(EVENTS)
@settings(deadline=None)  # the machine may be busy
def test_rows_keep_what_they_were_given_whatever_the_others_do(events: list[Event]) -> None:
    cache, rows = KeyValues(), Rows()
    for event in events:
        if isinstance(event, list):
            new = numbers(len(event), max(event) + 2)
            rows.join(new, event)
            cache.join(new, event)
        elif isinstance(event, int):
            if rows.held:
                rows.leave(event % len(rows.held))
                cache.leave(event % len(cache))
        elif rows.held:
            check_a_token(cache, rows)
        assert len(cache) == len(rows.held)


def check_a_token(cache: KeyValues, rows: Rows) -> None:
    lengths = [layers[0][0].shape[1] for layers in rows.held]
    positions, visible = cache.extend()
    assert positions.tolist() == [[length] for length in lengths]
    assert visible.sum(1).tolist() == [length + 1 for length in lengths]
    new = numbers(len(lengths), 1)
    rows.append(new)
    for layer in range(N_LAYERS):
        for i, whole in enumerate(cache.update(*new[layer], layer)):
            assert whole.shape == (len(lengths), N_HEADS, max(lengths) + 1, WIDTH), "no wider than the longest row"
            assert torch.isfinite(whole).all(), "what is masked is still multiplied"
            for row, layers in enumerate(rows.held):
                assert torch.equal(whole[row][:, visible[row]], layers[layer][i])


def test_a_pass_over_prompts_keeps_every_layer() -> None:
    kept, wanted = Kept(), numbers(2, 5)
    for layer, (key, value) in enumerate(wanted):
        assert kept.update(key, value, layer) == (key, value)
    assert kept.layers == wanted
