"""The same layers and the same scores as the paper's search, from a fraction of the work.

Exact means: every candidate that could be chosen is decoded greedily to its end, and its score is that of decoding it
alone (equal in fp32; in lower precision near-ties may fall differently, as they do between any two batch sizes).
What makes it fast, besides what `lanes` shares between candidates:

- the audio tower runs once for the whole search;
- the most promising candidate is scored first, and another one is given up as soon as the best score it can still
  reach (`metrics`) does not beat that;
- the chosen candidate's translations are the next round's drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from torch import Tensor

from compress.search.greedy import DECIMALS, Evaluation, Round, best, is_beaten
from compress.search.lanes import Decoder, Lane, Parent
from compress.search.metrics import CorpusMetric
from compress.translate import text_of

if TYPE_CHECKING:
    from transformers import Qwen2AudioProcessor

# Translations of the search split by candidate, None where unfinished.
Texts = dict[int, list[str | None]]

# Prompt slots that are read at once, over all rows of a chunk.
_TOKENS_PER_CHUNK: Final = 4096


class Exact:
    """Scores the candidates of a round; see `greedy.Scorer`.

    Args:
        decoder: the model behind its prompt.
        processor: turns tokens into text.
        audio: encoder outputs of the search split, shape (n_audio_tokens, d_model) each.
        metric: of the same utterances.
        drafts: the whole model's own translations, or any guess at them.
        advance: told how many candidates' utterances are done.
    """

    def __init__(
        self,
        decoder: Decoder,
        processor: Qwen2AudioProcessor,
        audio: Sequence[Tensor],
        metric: CorpusMetric,
        drafts: Sequence[str],
        advance: Callable[[int], None],
    ) -> None:
        self._decoder = decoder
        self._processor = processor
        self._audio = audio
        self._metric = metric
        self._drafts = list(drafts)
        self._advance = advance
        self._chunks = _chunks([len(clip) for clip in audio])

    def evaluate(
        self, removed: tuple[int, ...], candidates: Sequence[int], known: Mapping[int, Evaluation], last: Round | None
    ) -> Iterator[Evaluation]:
        """Evaluations of all candidates not known yet, the champion's first."""
        if all(layer in known for layer in candidates):
            return
        drafts = list(last.chosen.hypotheses) if last else self._drafts
        parents = [self._read(removed, chunk, drafts) for chunk in self._chunks]
        waiting = [layer for layer in _promising(candidates, parents, last) if layer not in known]
        scored = [found for found in known.values() if found.score is not None]
        if not scored and waiting:
            (champion,) = self._race(parents, [waiting.pop(0)], None)
            yield champion
            scored = [champion]
        if waiting:
            yield from self._race(parents, waiting, best(scored))

    def _race(
        self, parents: Sequence[Parent], layers: Sequence[int], champion: Evaluation | None
    ) -> Iterator[Evaluation]:
        """Decodes candidates chunk by chunk; those that cannot beat the champion drop out on the way."""
        texts: Texts = {layer: [None] * len(self._audio) for layer in layers}
        running = list(layers)
        for chunk, parent in zip(self._chunks, parents, strict=True):
            if not running:
                return
            lanes = [self._decoder.open(parent, layer) for layer in running]
            self._decoder.finish(lanes, partial(self._is_beaten, texts, chunk, champion))
            for lane in lanes:
                bound = self._bound(texts, chunk, lane)
                self._keep(texts, chunk, lane)
                unfinished = None in texts[lane.skip]
                if unfinished and champion is not None and is_beaten(bound, lane.skip, champion):
                    running.remove(lane.skip)
                    yield Evaluation(lane.skip, None, round(bound, DECIMALS), tuple(texts[lane.skip]))
            self._advance(len(chunk) * len(lanes))
        for layer in running:
            whole = [text or "" for text in texts[layer]]
            score = round(self._metric.score(whole), DECIMALS)
            yield Evaluation(layer, score, score, tuple(whole))

    def _is_beaten(self, texts: Texts, chunk: Sequence[int], champion: Evaluation | None, lane: Lane) -> bool:
        return champion is not None and is_beaten(self._bound(texts, chunk, lane), lane.skip, champion)

    def _bound(self, texts: Texts, chunk: Sequence[int], lane: Lane) -> float:
        """What a candidate's score can be at most, by what it has translated so far."""
        hypotheses = list(texts[lane.skip])
        beginnings = {}
        for row, number in enumerate(chunk):
            text = text_of(self._processor, lane.ids[row])
            if row in lane.open:
                beginnings[number] = text
            else:
                hypotheses[number] = text
        return self._metric.bound(hypotheses, beginnings)

    def _keep(self, texts: Texts, chunk: Sequence[int], lane: Lane) -> None:
        for row, number in enumerate(chunk):
            if row not in lane.open:
                texts[lane.skip][number] = text_of(self._processor, lane.ids[row])

    def _read(self, removed: tuple[int, ...], chunk: Sequence[int], drafts: Sequence[str | None]) -> Parent:
        return self._decoder.read(
            removed,
            [self._audio[i] for i in chunk],
            [self._processor.tokenizer.encode(drafts[i] or "", add_special_tokens=False) for i in chunk],
        )


def _promising(candidates: Sequence[int], parents: Sequence[Parent], last: Round | None) -> list[int]:
    """Candidates, most promising first: by how they fared in the last round, at first by block influence."""
    if last is not None:
        fared = {found.layer: found.bound for found in last.evaluations}
        return sorted(candidates, key=lambda layer: (-fared[layer], layer))
    influence = {layer: sum(parent.influence[layer] * len(parent.drafts) for parent in parents) for layer in candidates}
    return sorted(candidates, key=lambda layer: (influence[layer], layer))


def _chunks(lengths: Sequence[int]) -> list[list[int]]:
    """Utterances of similar length together, the longest first: they weigh most in the score."""
    chunks: list[list[int]] = [[]]
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if chunks[-1] and (len(chunks[-1]) + 1) * lengths[chunks[-1][0]] > _TOKENS_PER_CHUNK:
            chunks.append([])
        chunks[-1].append(number)
    return chunks
