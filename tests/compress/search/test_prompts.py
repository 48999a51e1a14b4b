"""Prompts are read as transformers reads them, each layer once for all who skip the same ones below it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from compress.audio import SAMPLE_RATE
from compress.model import decoder_layers, without_layers
from compress.prompt import translation
from compress.search.prompts import Prompts
from tests.compress.search.conftest import CLIPS
from tests.compress.search.setting import N_LAYERS, Setting

EVERYTHING = 1 << 30


@contextmanager
def layers_run(setting: Setting) -> Iterator[list[int]]:
    """Numbers of the layers that are called over several slots, once a call, those of the prompt's head left out."""
    called: list[int] = []
    n_head = len(setting.processor.tokenizer.encode(translation(setting.language).before, add_special_tokens=False))

    def note(number: int) -> Any:
        def hook(_layer: object, given: tuple[torch.Tensor, ...]) -> None:
            if given[0].shape[1] not in (1, n_head):
                called.append(number)

        return hook

    hooks = [layer.register_forward_pre_hook(note(i)) for i, layer in enumerate(decoder_layers(setting.model))]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def inputs_of(setting: Setting, number: int) -> Any:
    prompt = translation(setting.language)
    return setting.processor(text=prompt.text, audio=[CLIPS[number]], sampling_rate=SAMPLE_RATE, return_tensors="pt")


def leaves(setting: Setting, number: int, skipped: Collection[int]) -> torch.Tensor:
    """What leaves the top layer at the last slot, in transformers' own run of one clip."""
    found: list[torch.Tensor] = []
    with without_layers(setting.model, decoder=set(skipped)):
        top: Any = list(decoder_layers(setting.model))[-1]
        hook = top.register_forward_hook(lambda _layer, _given, after: found.append(after[0, -1]))
        with torch.inference_mode():
            setting.model(**inputs_of(setting, number), use_cache=False)
        hook.remove()
    return found[0]


@pytest.mark.parametrize("skipped", [(), (0,), (2,), (4,), (1, 3), (3, 4)])
def test_prompts_are_read_as_transformers_reads_them(skipped: tuple[int, ...], setting: Setting) -> None:
    reading = Prompts(setting.network(), setting.audio, EVERYTHING).read(skipped)
    wanted = torch.stack([leaves(setting, number, skipped) for number in range(len(CLIPS))])
    torch.testing.assert_close(reading.last, wanted, atol=1e-4, rtol=1e-4)
    assert set(reading.cache) == set(range(N_LAYERS)) - set(skipped)


def test_what_was_read_before_changes_nothing(setting: Setting) -> None:
    """In any order, with much room or none."""
    orders = [(1,), (3,), (), (1, 3), (3, 4), (1,), (0, 2)]
    for keep_bytes in (0, 200_000, EVERYTHING):
        prompts = Prompts(setting.network(), setting.audio, keep_bytes)
        for skipped in orders:
            alone = Prompts(setting.network(), setting.audio, EVERYTHING).read(skipped)
            found = prompts.read(skipped)
            torch.testing.assert_close(found.last, alone.last, atol=1e-5, rtol=1e-5)
            for layer, (key, value) in alone.cache.items():
                torch.testing.assert_close(found.cache[layer][0], key, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(found.cache[layer][1], value, atol=1e-5, rtol=1e-5)


def test_candidates_share_what_is_below_the_layer_that_they_lack(setting: Setting) -> None:
    prompts = Prompts(setting.network(), setting.audio, EVERYTHING)
    with layers_run(setting) as called:
        for skip in range(N_LAYERS - 1):
            prompts.read((skip,))
    # the top layer is read at the last slot only; of what a candidate lacks, those above it want the output
    alone = [layer for skip in range(N_LAYERS - 1) for layer in range(skip + 1, N_LAYERS - 1)]
    assert sorted(called) == sorted([*range(N_LAYERS - 2), *alone])


def test_the_next_round_goes_on_where_a_candidate_met_the_layer_that_is_gone(setting: Setting) -> None:
    prompts = Prompts(setting.network(), setting.audio, EVERYTHING)
    for skip in range(N_LAYERS - 1):
        prompts.read((skip,))
    prompts.remove((2,))
    with layers_run(setting) as called:
        prompts.read((0, 2))
        prompts.read((1, 2))
        prompts.read((2, 3))
    assert called == [3, 3]


def test_without_room_a_candidate_starts_anew_and_what_is_shared_is_kept(setting: Setting) -> None:
    prompts = Prompts(setting.network(), setting.audio, keep_bytes=0)
    prompts.read((3,))
    with layers_run(setting) as called:
        prompts.read((3,))
        prompts.read((1,))
        prompts.read((1,))
    assert called == [2, 3, 2, 3]
    prompts.release()
    with layers_run(setting) as called:
        prompts.read((3,))
    assert called == [0, 1, 2]


# --- block influence --------------------------------------------------------------------------------------------


def measured(setting: Setting, number: int) -> list[torch.Tensor]:
    """1 - cos between input and output of each layer, per token behind the prompt's head, in transformers' own run."""
    before = translation(setting.language).before
    n_head = len(setting.processor.tokenizer.encode(before, add_special_tokens=False))
    found: list[torch.Tensor] = []

    def measure(_layer: object, given: tuple[torch.Tensor, ...], after: torch.Tensor) -> None:
        found.append(1 - torch.nn.functional.cosine_similarity(given[0], after, dim=-1)[0, n_head:])

    hooks = [layer.register_forward_hook(measure) for layer in decoder_layers(setting.model)]
    with torch.inference_mode():
        setting.model(**inputs_of(setting, number), use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def test_influence_is_that_of_the_prompts_tokens(setting: Setting) -> None:
    """Over all clips together, padding left out."""
    by_clip = [measured(setting, number) for number in range(len(CLIPS))]
    wanted = [float(torch.cat(tokens).sum()) for tokens in zip(*by_clip, strict=True)]
    found = dict(Prompts(setting.network(), setting.audio, EVERYTHING).influence())
    assert found == pytest.approx(dict(enumerate(wanted)), rel=1e-3)
    assert min(found.values()) > 2e-4
