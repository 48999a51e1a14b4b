"""Scorers that look at one candidate at a time: as the paper's code does, and what anyone would write next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress import decoding
from compress.audio import SAMPLE_RATE
from compress.model import without_layers
from compress.reading import embed_prompt
from compress.search.bench import Bench, encode
from compress.search.greedy import DECIMALS, Evaluation, Round
from compress.search.metrics import CorpusMetric
from compress.translate import UTTERANCES_PER_BATCH, text_of

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor


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
    processor, exam = bench.processor, bench.exam
    texts = []
    for clip in exam.clips:
        inputs = processor(text=exam.prompt.text, audio=[clip], sampling_rate=SAMPLE_RATE, return_tensors="pt")
        (ids,) = _generate(bench, **inputs.to(bench.model.device, bench.model.dtype))
        texts.append(text_of(processor, ids[inputs["input_ids"].shape[1] :]))
        bench.advance(1)
    return texts


def plain(bench: Bench) -> list[str]:
    """What anyone would write next: `generate` on batches of utterances whose audio was encoded once."""
    model, processor, exam = bench.model, bench.processor, bench.exam
    texts: dict[int, str] = {}
    order = sorted(range(len(bench.audio)), key=lambda i: -len(bench.audio[i]))
    for numbers in (order[at : at + UTTERANCES_PER_BATCH] for at in range(0, len(order), UTTERANCES_PER_BATCH)):
        rows = [embed_prompt(model, processor.tokenizer, bench.audio[i], exam.prompt) for i in numbers]
        width = max(map(len, rows))
        # generated tokens follow the last slot, so that padding has to be in front
        embedded = torch.stack([nn.functional.pad(row, (0, 0, width - len(row), 0)) for row in rows])
        mask = torch.stack([torch.arange(width) >= width - len(row) for row in rows]).long().to(embedded.device)
        for number, ids in zip(numbers, _generate(bench, inputs_embeds=embedded, attention_mask=mask), strict=True):
            texts[number] = text_of(processor, ids)
        bench.advance(len(numbers))
    return [texts[number] for number in range(len(texts))]


def _generate(bench: Bench, **inputs: Any) -> list[list[int]]:
    """Token ids of each row; see `generate`."""
    return generate(bench.model, bench.processor, bench.exam.max_new_tokens, **inputs)


def generate(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, max_new_tokens: int, **inputs: Any
) -> list[list[int]]:
    """Decodes greedily by transformers; token ids of each row, behind those of the prompt if `input_ids` has it."""
    ends = sorted(decoding.end_tokens(model, processor.tokenizer))
    with torch.inference_mode():
        ids: Any = model.generate(  # type: ignore[misc]  # transformers' hints leave this class out
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            repetition_penalty=1.0,
            # what ends a translation everywhere else, whatever the checkpoint declares
            eos_token_id=ends,
        )
    found: list[list[int]] = ids.tolist()
    return found


def batched(bench: Bench) -> list[str]:
    """Batches of utterances whose audio was encoded once: for candidates in the decoder."""
    return bench.translations()


def encoding_anew(bench: Bench) -> list[str]:
    """Batches of utterances whose audio is encoded each time: for candidates in the tower."""
    return bench.translations(encode(bench.model, bench.processor, bench.exam.clips))
