"""Candidates that decode together say, token for token, what each says alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from compress.decoding import Decoding
from compress.model import without_layers
from compress.prompt import translation
from compress.search.greedy import Round
from compress.search.lanes import Decoder, Lane
from compress.search.prompts import Prompts
from tests.compress.search.setting import LIMIT, N_LAYERS, Setting
from tests.compress.test_decoding import run

Ids = list[list[int]]
EVERYTHING = 1 << 30


def ids_without(setting: Setting, removed: set[int]) -> Ids:
    """Token ids from the product's plain decoding loop."""
    prompts = [translation(setting.language)] * len(setting.audio)
    with without_layers(setting.model, decoder=removed):
        return run(Decoding(setting.model, setting.processor, setting.audio, prompts, setting.limit), len(prompts))


@pytest.fixture(scope="module")
def wanted(setting: Setting, batched_rounds: list[Round]) -> dict[tuple[int, ...], dict[int, Ids]]:
    """What every candidate of the whole model says, and what those after one removal say."""
    return {
        gone: {skip: ids_without(setting, {*gone, skip}) for skip in range(N_LAYERS) if skip not in gone}
        for gone in ((), (batched_rounds[0].removed,))
    }


def never(lane: Lane) -> bool:
    del lane
    return False


def opened(
    setting: Setting, limit: int, skips: Sequence[int], gone: tuple[int, ...] = ()
) -> tuple[Decoder, list[Lane]]:
    """A decoder, and lanes over all clips in one chunk."""
    network = setting.network()
    decoder, prompts = Decoder(network, limit), Prompts(network, setting.audio, EVERYTHING)
    return decoder, [decoder.open(prompts, gone, skip) for skip in skips]


def test_the_texts_differ_and_some_end_before_the_limit(wanted: dict[tuple[int, ...], dict[int, Ids]]) -> None:
    """Else what follows would show little."""
    lengths = {len(ids) for candidates in wanted.values() for rows in candidates.values() for ids in rows}
    assert min(lengths) < LIMIT - 2
    assert max(lengths) == LIMIT
    assert len({repr(rows) for rows in wanted[()].values()}) >= N_LAYERS - 1


@pytest.mark.parametrize("n_gone", [0, 1])
def test_all_candidates_together_say_what_each_says_alone(
    n_gone: int, setting: Setting, wanted: dict[tuple[int, ...], dict[int, Ids]]
) -> None:
    gone = next(one for one in wanted if len(one) == n_gone)
    decoder, lanes = opened(setting, LIMIT, list(wanted[gone]), gone)
    decoder.finish(lanes, never)
    assert {lane.skip: lane.ids for lane in lanes} == wanted[gone]
    assert all(lane.open == [] for lane in lanes)


def test_a_candidate_is_finished_alone_as_among_others(
    setting: Setting, wanted: dict[tuple[int, ...], dict[int, Ids]]
) -> None:
    for skip, ids in wanted[()].items():
        decoder, (lane,) = opened(setting, LIMIT, [skip])
        decoder.finish([lane], never)
        assert lane.ids == ids


def test_chunks_are_decoded_together(setting: Setting, wanted: dict[tuple[int, ...], dict[int, Ids]]) -> None:
    network = setting.network()
    decoder = Decoder(network, LIMIT)
    parts = [Prompts(network, setting.audio[:2], EVERYTHING), Prompts(network, setting.audio[2:], EVERYTHING)]
    lanes = [decoder.open(part, (), skip) for skip in (1, 3) for part in parts]
    decoder.finish(lanes, never)
    for lane, rows in zip(lanes, [slice(0, 2), slice(2, None)] * 2, strict=True):
        assert lane.ids == wanted[()][lane.skip][rows]


def test_a_candidate_that_is_given_up_stays_as_it_was(
    setting: Setting, wanted: dict[tuple[int, ...], dict[int, Ids]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.search.lanes._STEPS_BETWEEN_CHECKS", 4)
    hopeless = max(wanted[()], key=lambda skip: max(map(len, wanted[()][skip])))
    decoder, lanes = opened(setting, LIMIT, list(wanted[()]))
    decoder.finish(lanes, lambda lane: lane.skip == hopeless)
    for lane in lanes:
        if lane.skip != hopeless:
            assert lane.ids == wanted[()][lane.skip]
            continue
        assert lane.open
        for row, (ids, whole) in enumerate(zip(lane.ids, wanted[()][hopeless], strict=True)):
            assert ids == whole[: len(ids)]
            assert len(ids) < LIMIT
            assert row in lane.open or ids == whole


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_no_translation_is_longer_than_allowed(
    limit: int, setting: Setting, wanted: dict[tuple[int, ...], dict[int, Ids]]
) -> None:
    decoder, lanes = opened(setting, limit, list(wanted[()]))
    decoder.finish(lanes, never)
    for lane in lanes:
        assert lane.ids == [ids[:limit] for ids in wanted[()][lane.skip]]
