"""Scorers that look at one candidate at a time: as the paper's code does, and what anyone would write next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from compress import decoding
from compress.audio import SAMPLE_RATE
from compress.model import without_layers
from compress.search.bench import Bench, encode
from compress.search.greedy import DECIMALS, Evaluation, Round
from compress.search.metrics import CorpusMetric
from compress.translate import text_of

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration


@dataclass(frozen=True)
class OneByOne:
    """Scores candidates one after the other; see `greedy.Scorer`.

    Attributes:
        model: the whole model; it is itself again after each candidate.
        part: where layers are removed: decoder or tower.
        translate: translates the search split with the model as it is then.
        metric: of the same utterances.
    """

    model: Qwen2AudioForConditionalGeneration
    part: str
    translate: Callable[[], list[str]]
    metric: CorpusMetric

    def evaluate(
        self, removed: tuple[int, ...], candidates: Sequence[int], known: Mapping[int, Evaluation], last: Round | None
    ) -> Iterator[Evaluation]:
        """Evaluations of all candidates not known yet, in their order."""
        del last
        for layer in candidates:
            if layer in known:
                continue
            with without_layers(self.model, **{self.part: {*removed, layer}}):
                hypotheses = self.translate()
            score = round(self.metric.scores([hypotheses])[0], DECIMALS)
            yield Evaluation(layer, score, score, tuple(hypotheses))


def naive(bench: Bench) -> list[str]:
    """The published way: `generate` on one utterance after the other, each padded to 30 s and encoded anew."""
    model, processor, exam = bench.model, bench.processor, bench.exam
    texts = []
    for clip in exam.clips:
        inputs = processor(text=exam.prompt.text, audio=[clip], sampling_rate=SAMPLE_RATE, return_tensors="pt")
        inputs = inputs.to(model.device, model.dtype)
        with torch.inference_mode():
            ids = model.generate(  # type: ignore[misc]  # transformers' hints leave this class out
                **inputs,
                max_new_tokens=exam.max_new_tokens,
                do_sample=False,
                repetition_penalty=1.0,
                # what ends a translation everywhere else, whatever the checkpoint declares
                eos_token_id=sorted(decoding.end_tokens(model, processor.tokenizer)),
            )
        texts.append(text_of(processor, ids[0, inputs["input_ids"].shape[1] :].tolist()))
        bench.advance(1)
    return texts


def batched(bench: Bench) -> list[str]:
    """Batches of utterances whose audio was encoded once: for candidates in the decoder."""
    return bench.translations()


def encoding_anew(bench: Bench) -> list[str]:
    """Batches of utterances whose audio is encoded each time: for candidates in the tower."""
    return bench.translations(encode(bench.model, bench.processor, bench.exam.clips))
