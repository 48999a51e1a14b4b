"""Scores against sacreBLEU's own functions, per stratum; translation in batches against one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from rich.progress import Progress
from sacrebleu.metrics.bleu import BLEU
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress import decoding
from compress.pocket import evaluation, features
from compress.pocket.corpus import HUMAN_VOICE, Clip
from compress.pocket.evaluation import Score, invented_words, score, stratum
from compress.prompt import translation
from compress.translate import translate
from tests.compress.conftest import sound

_CLIP = Clip("", "report", "daily", "pico-us", "words", "", "", 0, varied=False)

GERMAN = [
    ("Wo ist der nächste Bahnhof?", "Wo ist der nächste Bahnhof?"),
    ("Ich hätte gern ein Glas Wasser.", "Ich möchte bitte ein Glas Wasser haben."),
    ("Der Zug fährt um 9.30 Uhr ab.", "Der Zug fährt um 9 Uhr ab."),
    ("Das Zimmer ist viel zu laut.", "Das Zimmer war zu klein und zu laut."),
]
CHINESE = [
    ("最近的火车站在哪里？", "最近的火车站在哪里？"),
    ("我想要一杯水。", "请给我一杯水。"),
    ("火车九点半开。", "火车九点开车。"),
    ("这个房间太吵了。", "这个房间又小又吵。"),
]
VOICES = ["pico-us", "pico-us", "pico-gb", HUMAN_VOICE]


def clips(references: list[str], language: str) -> list[Clip]:
    """Two clips of a seen voice, one of a held-out voice, one human, and one in which nothing is said."""
    spoken = [
        replace(
            _CLIP,
            id=str(i),
            voice=voice,
            de=reference if language == "de" else "",
            zh=reference if language == "zh" else "",
        )
        for i, (voice, reference) in enumerate(zip(VOICES, references, strict=True))
    ]
    return [*spoken, replace(_CLIP, id="silence", domain="", voice="none", en="")]


def test_clips_are_grouped_by_domain_and_voice() -> None:
    names = [stratum(clip) for clip in clips([reference for reference, _ in GERMAN], "de")]
    assert names == [
        "daily, seen voices",
        "daily, seen voices",
        "daily, held-out voices",
        "daily, human recordings",
        "no speech",
    ]


def scored(pairs: list[tuple[str, str]], language: str) -> dict[tuple[str, str], Score]:
    hypotheses = [*(hypothesis for _, hypothesis in pairs), "invented"]
    found = score(clips([reference for reference, _ in pairs], language), hypotheses, language)
    assert {one.language for one in found} == {language}
    return {(one.stratum, one.metric): one for one in found}


@pytest.mark.parametrize(("pairs", "language"), [(GERMAN, "de"), (CHINESE, "zh")])
def test_scores_are_sacrebleus_own(pairs: list[tuple[str, str]], language: str) -> None:
    found = scored(pairs, language)
    chrf = "chrF" if language == "zh" else "chrF++"
    rows = {"daily, seen voices": pairs[:2], "daily, held-out voices": pairs[2:3], "daily, human recordings": pairs[3:]}
    assert set(found) == {(name, metric) for name in rows for metric in ("BLEU", chrf)}
    for name, chosen in rows.items():
        outputs, references = [hypothesis for _, hypothesis in chosen], [[reference for reference, _ in chosen]]
        bleu = sacrebleu.corpus_bleu(outputs, references, tokenize="zh" if language == "zh" else "13a")
        assert found[name, "BLEU"].value == pytest.approx(bleu.score, abs=0.005)
        order = 0 if language == "zh" else 2
        wanted = sacrebleu.corpus_chrf(outputs, references, word_order=order)
        assert found[name, chrf].value == pytest.approx(wanted.score, abs=0.005)
        assert found[name, "BLEU"].n_clips == len(chosen)


def test_every_score_has_a_signature_and_an_interval() -> None:
    german, chinese = scored(GERMAN, "de"), scored(CHINESE, "zh")
    for one in (*german.values(), *chinese.values()):
        assert f"version:{sacrebleu.__version__}" in one.signature
        assert "bs:1000" in one.signature
        assert one.low <= one.high
        assert set(one.as_json()) == {
            "stratum",
            "language",
            "metric",
            "value",
            "low",
            "high",
            "n_clips",
            "signature",
        }
    assert "tok:13a" in german["daily, seen voices", "BLEU"].signature
    assert "tok:zh" in chinese["daily, seen voices", "BLEU"].signature
    wide = german["daily, seen voices", "chrF++"]
    assert wide.low < wide.value < wide.high


def test_perfect_and_empty_translations_score_a_hundred_and_zero() -> None:
    found = scored([(GERMAN[0][0], GERMAN[0][0]), (GERMAN[1][0], GERMAN[1][0]), (GERMAN[2][0], ""), GERMAN[3]], "de")
    assert found["daily, seen voices", "BLEU"].value == pytest.approx(100)
    assert found["daily, held-out voices", "BLEU"].value == 0


def test_intervals_are_sacrebleus_own() -> None:
    outputs, references = [hypothesis for _, hypothesis in GERMAN], [reference for reference, _ in GERMAN]
    heard = [replace(_CLIP, id=str(i), de=reference) for i, reference in enumerate(references)]
    (bleu, _) = score(heard, outputs, "de")
    wanted: Any = BLEU(references=[references]).corpus_score(outputs, None, n_bootstrap=1000)
    assert bleu.low == pytest.approx(wanted._mean - wanted._ci, abs=0.006)
    assert bleu.high == pytest.approx(wanted._mean + wanted._ci, abs=0.006)


def test_resamples_that_score_nothing_have_an_interval_too() -> None:
    heard = [replace(_CLIP, id=str(i), de=reference) for i, (reference, _) in enumerate(GERMAN[:2])]
    for one in score(heard, [GERMAN[0][0], "xyz"], "de"):
        assert one.low < one.value < one.high


def test_scores_repeat_themselves() -> None:
    assert scored(GERMAN, "de") == scored(GERMAN, "de")


def test_invented_words_are_counted_over_silent_clips_alone() -> None:
    quiet = replace(_CLIP, en="", domain="", voice="none")
    assert invented_words([_CLIP, quiet, quiet, quiet], ["long text", "", "four", "twelve chars"]) == (3, 2, 16 / 3)
    assert invented_words([_CLIP], ["text"]) == (0, 0, 0)


def test_translating_in_batches_equals_one_by_one_in_order(
    tmp_path: Path, pocket: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    heard = [replace(_CLIP, id=f"{i:02}") for i in range(5)]
    for i, clip in enumerate(heard):
        with torch.inference_mode():
            (row,) = decoding.encode(pocket, decoding.log_mel(processor, [sound(0.4 + 0.7 * ((i * 3) % 5), i)]))
        path = features.path_of(clip, tmp_path)
        path.parent.mkdir(exist_ok=True)
        np.save(path, row.numpy().astype(np.float16))
    with Progress(disable=True) as progress:
        found = evaluation.translate_clips(pocket, processor, heard, "zh", tmp_path, progress)
    for clip, text in zip(heard, found, strict=True):
        audio = torch.from_numpy(features.load(clip, tmp_path)).float()
        assert translate(pocket, processor, [audio], translation("zh"), 120) == [text]
