"""A model, what it is asked to translate, and the searches that are compared on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress.audio import Samples
from compress.prompt import translation
from compress.search import scorers
from compress.search.bench import Bench, Exam
from compress.search.greedy import Round, Scorer, is_beaten, search
from compress.search.log import Forgetful
from compress.search.metrics import Chrf, CorpusMetric
from compress.search.network import Network
from compress.search.race import Race
from compress.search.single import OneByOne
from tests.compress import babbler

LIMIT = 16  # tokens of a translation
N_LAYERS = len(babbler.STRENGTHS)


def nobody(_n: int) -> None:
    """Who wants to know how far a search is."""


@dataclass(frozen=True)
class Setting:
    """A model and a search split.

    Attributes:
        model: fp32.
        processor: its processor.
        audio: encoder outputs, shape (n_audio_tokens, d_model) each.
        references: what the search split should become.
        clips: what `audio` was made of, shape (n_samples,) each; empty where nobody encodes anew.
        language: what is asked for.
        limit: tokens of a translation.
    """

    model: Qwen2AudioForConditionalGeneration
    processor: Qwen2AudioProcessor
    audio: list[Tensor]
    references: list[str]
    clips: Sequence[Samples] = ()
    language: str = "de"
    limit: int = LIMIT

    @property
    def metric(self) -> CorpusMetric:
        return Chrf(self.references, word_order=0 if self.language == "zh" else 2)

    @property
    def exam(self) -> Exam:
        return Exam(
            prompt=translation(self.language),
            max_new_tokens=self.limit,
            clips=self.clips,
            references=self.references,
            sources=[""] * len(self.references),
            language=self.language,
        )

    def bench(self, advance: Callable[[int], None] = nobody) -> Bench:
        return Bench(self.model, self.processor, self.exam, self.audio, advance)

    def network(self) -> Network:
        return Network(self.model, self.processor, translation(self.language))

    def translations(self) -> list[str]:
        """The model's own, as it is."""
        return self.bench().translations()

    def naive(self, part: str = "decoder", advance: Callable[[int], None] = nobody) -> OneByOne:
        return scorers.one_by_one(self.bench(advance), part, "naive", self.metric)

    def plain(self) -> OneByOne:
        return scorers.one_by_one(self.bench(), "decoder", "plain", self.metric)

    def batched(
        self, metric: CorpusMetric | None = None, advance: Callable[[int], None] = nobody, part: str = "decoder"
    ) -> OneByOne:
        return scorers.one_by_one(self.bench(advance), part, "batched", metric or self.metric)

    def race(
        self,
        metric: CorpusMetric | None = None,
        advance: Callable[[int], None] = nobody,
        keep_bytes: int | None = None,
        *,
        fast: bool = False,
    ) -> Race:
        return scorers.race(self.bench(advance), metric or self.metric, keep_bytes, fast=fast)


def rounds(scorer: Scorer, n_layers: int, n_remove: int, protected: Sequence[int] = ()) -> list[Round]:
    """A whole search."""
    return list(search(n_layers, n_remove, protected, scorer, Forgetful()))


def babbling(make: Callable[[int], Setting], n_remove: int, part: str = "decoder") -> tuple[Setting, list[Round]]:
    """The first setting whose model chooses every word by a wide margin, and what a batched search finds in it.

    References are what the whole model says, so that candidates are told apart.

    Args:
        make: a setting without references, from a seed.
        n_remove: how many layers are searched for.
        part: where.
    """
    for seed in babbler.SEEDS:
        bare = make(seed)
        with babbler.leads(bare.model) as leads:
            references = bare.translations()
            found = replace(bare, references=references)
            if part == "decoder":
                wanted = rounds(found.batched(), N_LAYERS, n_remove)
            else:
                wanted = rounds(found.batched(part=part), babbler.N_TOWER_LAYERS, n_remove)
        if min(leads) > babbler.LEAD and _tells_apart(found, wanted, len(leads)):
            return found, wanted
    pytest.fail(f"no model of seeds {babbler.SEEDS} tells its layers apart by a wide margin")


def _tells_apart(setting: Setting, wanted: Sequence[Round], n_words: int) -> bool:
    """Whether candidates score differently, clips sound different, and some translations end before the limit."""
    n_translations = len(setting.audio) * (1 + sum(len(one.evaluations) for one in wanted))
    return (
        all(len({one.score for one in chosen.evaluations}) > 1 for chosen in wanted)
        and len(set(setting.references)) > len(setting.references) // 2
        and 0.3 < n_words / (n_translations * setting.limit) < 0.9
    )


def assert_same(found: Sequence[Round], wanted: Sequence[Round]) -> None:
    """The same layers with the same scores and texts; and who was given up had lost.

    Args:
        found: of a search that may give candidates up.
        wanted: of one that scores them all.
    """
    assert [one.removed for one in found] == [one.removed for one in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.before == theirs.before
        assert mine.chosen == theirs.chosen
        for one, whole in zip(mine.evaluations, theirs.evaluations, strict=True):
            assert whole.score is not None
            if one.score is not None:
                assert one == whole
                continue
            assert one.layer == whole.layer
            assert one.bound >= whole.score
            assert is_beaten(one.bound, one.layer, mine.chosen)
            for text, end in zip(one.hypotheses, whole.hypotheses, strict=True):
                assert text in (None, end)
