"""The same layers and the same scores as the paper's search, from a fraction of the work.

Exact means: every candidate that could be chosen is decoded greedily to its end, and its score is that of decoding it
alone (equal in fp32; in lower precision near-ties may fall differently, as they do between any two batch sizes).
What makes it fast, besides what `prompts` and `lanes` share between candidates and rounds:

- the audio tower runs once for the whole search;
- utterances come in chunks, first those that take most away from the score of the model as pruned so far: who is
  bad there can hardly make it good with the rest;
- whoever leads after a chunk is scored first if that promises to pay, and another candidate is given up as soon as the
  best score it can still reach (`metrics`) does not beat the best there is.

The fast mode gives up two thirds of the candidates after each chunk, by their scores so far (successive halving,
Jamieson and Talwalkar 2016): an approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from torch import Tensor

from compress.search.greedy import DECIMALS, Evaluation, Round, best, is_beaten
from compress.search.lanes import Decoder, Lane
from compress.search.metrics import CorpusMetric
from compress.search.network import Network
from compress.search.prompts import Prompts
from compress.translate import text_of

if TYPE_CHECKING:
    from transformers import Qwen2AudioProcessor

# Prompts' audio tokens that are read at once, padding included.
_TOKENS_PER_CHUNK: Final = 2048
# Nobody can be given up before the last chunk.
_CHUNKS_AT_LEAST: Final = 2
_FAST_CHUNKS_AT_LEAST: Final = 4
_FAST_SHARE: Final = 1 / 3
_PERFECT: Final = 100.0
# Of the candidates, how many must be likely to lose by it for the leader to be decoded by itself.
_WORTH_A_LEAD: Final = 1 / 4


@dataclass(frozen=True)
class Chunk:
    """Utterances that are read together.

    Attributes:
        numbers: theirs, in the search split.
        prompts: their prompts.
    """

    numbers: list[int]
    prompts: Prompts


@dataclass
class _Standing:
    """What the candidates of one round have translated so far.

    Attributes:
        texts: translations of the search split by candidate, None where unfinished.
        running: candidates that may still be chosen, in order.
        champion: the best that is scored.
    """

    texts: dict[int, list[str | None]]
    running: list[int]
    champion: Evaluation | None
    bounds: dict[int, float] = field(default_factory=dict)


class Race:
    """Scores the candidates of a round; see `greedy.Scorer`.

    Args:
        network: the model behind its prompt.
        processor: turns tokens into text.
        audio: encoder outputs of the search split, shape (n_audio_tokens, d_model) each.
        metric: of the same utterances.
        max_new_tokens: a translation ends after this many tokens at the latest.
        keep_bytes: room for hidden states that save work in later rounds.
        decode_bytes: room for what is decoded together; at least one candidate is.
        advance: told how many candidates' utterances are done.
        fast: approximate.
    """

    def __init__(
        self,
        network: Network,
        processor: Qwen2AudioProcessor,
        audio: Sequence[Tensor],
        metric: CorpusMetric,
        max_new_tokens: int,
        keep_bytes: int,
        decode_bytes: int,
        advance: Callable[[int], None],
        *,
        fast: bool = False,
    ) -> None:
        self._processor = processor
        self._metric = metric
        self._n_utterances = len(audio)
        self._advance = advance
        self._fast = fast
        self._decode_bytes = decode_bytes
        self._decoder = Decoder(network, max_new_tokens)
        self._chunks = []
        at_least = _FAST_CHUNKS_AT_LEAST if fast else _CHUNKS_AT_LEAST
        for numbers in _chunks([len(clip) for clip in audio], at_least):
            share = keep_bytes * len(numbers) // len(audio)
            self._chunks.append(Chunk(numbers, Prompts(network, [audio[i] for i in numbers], share)))

    def evaluate(
        self, removed: tuple[int, ...], candidates: Sequence[int], known: Mapping[int, Evaluation], last: Round | None
    ) -> Iterator[Evaluation]:
        """Evaluations of all candidates not known yet, as they finish or are given up."""
        waiting = [layer for layer in candidates if layer not in known]
        if not waiting:
            return
        scored = [found for found in known.values() if found.score is not None]
        texts: dict[int, list[str | None]] = {layer: [None] * self._n_utterances for layer in waiting}
        standing = _Standing(texts, waiting, best(scored) if scored else None)
        chunks = self._by_loss(last.chosen.hypotheses) if last else self._chunks
        for chunk in chunks:
            chunk.prompts.remove(removed)
        for number, chunk in enumerate(chunks):
            self._decode([chunk], removed, list(standing.running), standing)
            if number == len(chunks) - 1:
                break
            if self._fast:
                places = max(1, math.ceil(len(candidates) * _FAST_SHARE ** (number + 1)))
                yield from self._give_up(standing, places)
            else:
                yield from self._crown(chunks[: number + 1], chunks[number + 1 :], removed, standing)
                yield from self._give_up(standing, len(standing.running))
        yield from self._ended(standing.running, standing)

    def _crown(
        self, read: Sequence[Chunk], rest: Sequence[Chunk], removed: tuple[int, ...], standing: _Standing
    ) -> Iterator[Evaluation]:
        """Lets the leader finish first, if it is ahead of the champion and likely to leave others without a chance."""
        known = [layer for layer in standing.running if math.isfinite(standing.bounds[layer])]
        leader = max(known, key=lambda layer: (standing.bounds[layer], -layer), default=None)
        if leader is None or not self._pays(leader, read, standing):
            return
        champion = standing.champion
        if champion is not None:
            numbers = {i for chunk in read for i in chunk.numbers}
            so_far = [text if i in numbers else None for i, text in enumerate(champion.hypotheses)]
            if self._metric.bound(so_far, {}) >= standing.bounds[leader]:
                return
        self._decode(rest, removed, [leader], standing)
        standing.running.remove(leader)
        (found,) = self._ended([leader], standing)
        if found.score is not None:
            standing.champion = best([found, champion] if champion else [found])
        yield found

    def _pays(self, leader: int, read: Sequence[Chunk], standing: _Standing) -> bool:
        """Whether enough candidates would be given up if the leader went on as it began: alone, it decodes dearly."""
        share = sum(len(chunk.numbers) for chunk in read) / self._n_utterances
        expected = _PERFECT - (_PERFECT - standing.bounds[leader]) / share
        beaten = sum(standing.bounds[layer] < expected for layer in standing.running)
        return beaten >= _WORTH_A_LEAD * len(standing.running)

    def _give_up(self, standing: _Standing, places: int) -> Iterator[Evaluation]:
        """Takes out those who cannot win any more, and whoever is behind the last of a number of places."""
        ranked = sorted(standing.running, key=lambda layer: (-standing.bounds[layer], layer))
        for layer in list(standing.running):
            if layer in ranked[places:] or self._is_beaten(standing, layer, standing.bounds[layer]):
                standing.running.remove(layer)
                yield self._given_up(layer, standing)

    def _decode(
        self, chunks: Sequence[Chunk], removed: tuple[int, ...], layers: Sequence[int], standing: _Standing
    ) -> None:
        """Translates chunks with several candidates; updates their texts and bounds."""
        together: dict[Lane, Chunk] = {}
        for chunk in chunks:
            for layer in layers:
                together[self._decoder.open(chunk.prompts, removed, layer)] = chunk
                # what is decoded together is copied once more
                if sum(lane.n_bytes for lane in together) > self._decode_bytes:
                    self._finish(together, standing)
                    together = {}
        self._finish(together, standing)
        for chunk in chunks:
            chunk.prompts.release()

    def _finish(self, lanes: Mapping[Lane, Chunk], standing: _Standing) -> None:
        """Translates what lanes have read."""
        if not lanes:
            return
        self._decoder.finish(list(lanes), lambda lane: self._is_lost(standing, lane, lanes[lane]))
        for lane, chunk in lanes.items():
            texts = standing.texts[lane.skip]
            beginnings = self._read_out(lane, chunk, texts)
            standing.bounds[lane.skip] = self._metric.bound(texts, beginnings)
            self._advance(len(chunk.numbers))

    def _read_out(self, lane: Lane, chunk: Chunk, texts: list[str | None]) -> dict[int, str]:
        """Puts finished translations among `texts`; gives the beginnings of unfinished ones."""
        beginnings = {}
        for row, number in enumerate(chunk.numbers):
            text = text_of(self._processor, lane.ids[row])
            if row in lane.open:
                beginnings[number] = text
            else:
                texts[number] = text
        return beginnings

    def _is_lost(self, standing: _Standing, lane: Lane, chunk: Chunk) -> bool:
        """Whether a lane cannot win any more, by what it has translated so far."""
        if standing.champion is None:
            return False
        texts = list(standing.texts[lane.skip])
        beginnings = self._read_out(lane, chunk, texts)
        return self._is_beaten(standing, lane.skip, self._metric.bound(texts, beginnings))

    def _is_beaten(self, standing: _Standing, layer: int, bound: float) -> bool:
        return standing.champion is not None and is_beaten(bound, layer, standing.champion)

    def _given_up(self, layer: int, standing: _Standing) -> Evaluation:
        return Evaluation(layer, None, round(standing.bounds[layer], DECIMALS), tuple(standing.texts[layer]))

    def _ended(self, layers: Sequence[int], standing: _Standing) -> Iterator[Evaluation]:
        """Of candidates that have read all chunks; one may have lost on the way through the last."""
        whole: dict[int, list[str]] = {}
        for layer in layers:
            texts = [text for text in standing.texts[layer] if text is not None]
            if len(texts) == self._n_utterances:
                whole[layer] = texts
            else:
                yield self._given_up(layer, standing)
        for layer, value in zip(whole, self._metric.scores(list(whole.values())), strict=True):
            score = round(value, DECIMALS)
            yield Evaluation(layer, score, score, tuple(whole[layer]))

    def _by_loss(self, hypotheses: Sequence[str | None]) -> list[Chunk]:
        """The chunks, first those that take most away from the score."""
        losses = self._metric.losses([text or "" for text in hypotheses])

        def loss(chunk: Chunk) -> float:
            return sum(losses[i] for i in chunk.numbers) / len(chunk.numbers)

        return sorted(self._chunks, key=loss, reverse=True)


def _chunks(lengths: Sequence[int], at_least: int) -> list[list[int]]:
    """Utterances of similar length together, the longest first: they weigh most in the score."""
    per_chunk = math.ceil(len(lengths) / at_least)
    chunks: list[list[int]] = [[]]
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        n_more = len(chunks[-1]) + 1
        if chunks[-1] and (n_more > per_chunk or n_more * lengths[chunks[-1][0]] > _TOKENS_PER_CHUNK):
            chunks.append([])
        chunks[-1].append(number)
    return chunks
