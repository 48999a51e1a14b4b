"""The pocket model's card: data, voices, licences, limits and measured scores, rendered by the build."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from compress.pocket.corpus import Clip, normalise
from compress.pocket.grammar import DOMAINS, count_fillings, load_domain
from compress.pocket.recipe import PocketRecipe
from compress.pocket.speech import VOICES
from compress.prompt import LANGUAGES

_PROOFREADING: Final = Path(__file__).parent / "frames" / "proofreading.yaml"

_HEAD: Final = """\
---
license: apache-2.0
language: [en, de, zh]
pipeline_tag: translation
library_name: transformers
tags: [speech-translation, qwen2_audio]
---

# pocket

A `Qwen2AudioForConditionalGeneration` of 19.8 million parameters that translates English speech into
German and Chinese text within three domains: conference talks (`talks`), travel and daily life (`daily`) and
telephone announcements (`phone`).  It exists so that the pipeline, the server and their tests run on a real
model of the real architecture on any machine, offline.  It is no general translator.

This page is written by `python -m compress pocket`, which rebuilds the model; edit `compress/pocket/card.py`.

## Model

Whisper tiny.en's encoder (4 layers of width 384, pretrained on human speech, frozen), a linear projector and a
Qwen2 decoder of 12 layers of width 256 trained from scratch; byte-level BPE of 5,120 entries; 30 s window; bf16
weights in hub layout.  The prompt is that of Qwen2-Audio's instruct models.
"""

_LIMITS: Final = """\
## Limits

- The training speech is synthetic.  Noise, rooms, channels and shifted formants were laid over it, but the only
  human speech in these figures is one studio speaker's.
- The human recordings' sentences were never trained on, but the `phone` grammars were written by someone who
  had read them and cover their vocabulary, and the references follow the grammars' wording: that row shows how
  the model hears a human voice in its domain, not how it would fare on a telephone system it has never met.
- All report sentences are unseen combinations of seen sentence frames and words.  Outside the three domains the
  model falls back on the nearest sentence it knows.
- The report splits of the synthetic strata are clean speech.

## Licences

Weights: Apache-2.0; the audio tower is OpenAI's Whisper tiny.en, MIT (see NOTICE).  The synthesisers are SVOX
Pico (Apache-2.0), Flite and Festival with their voices (permissive, Carnegie Mellon University and the University
of Edinburgh) and eSpeak NG (GPL-3, whose output is not covered by it).  Names of countries, languages, days and
months come from Unicode's CLDR.  The human recordings (Allison Smith, CC-BY-SA 3.0, Debian's package
`asterisk-core-sounds-en-g722`) are used for reporting only and are not part of the model or of this repository.
"""


def render(recipe: PocketRecipe, result: dict[str, Any], clips: Sequence[Clip], report: Sequence[Clip]) -> str:
    """The card as Markdown.

    Args:
        recipe: what the model was made with.
        result: scores, silence and headroom as `build` measured them.
        clips: the training clips.
        report: the report clips.
    """
    sections = [_HEAD, _data(recipe, clips), _scores(result), _headroom(result), _silence(result), _LIMITS]
    return "\n".join(section.rstrip() + "\n" for section in sections)


def _data(recipe: PocketRecipe, clips: Sequence[Clip]) -> str:
    spoken = [clip for clip in clips if clip.en]
    words = {word for clip in spoken for word in normalise(clip.en).split()}
    lines = [
        "## Data",
        "",
        "| domain | sentence frames | possible sentences | spoken in training |",
        "|---|--:|--:|--:|",
    ]
    counts = Counter(clip.domain for clip in spoken)
    for domain in DOMAINS:
        frames = load_domain(domain)
        possible = sum(count_fillings(frame) for frame in frames)
        lines.append(f"| {domain} | {len(frames)} | {_power(possible)} | {counts[domain]:,} |")
    seen = ", ".join(voice.name for voice in VOICES if not voice.held_out)
    n_silent = len(clips) - len(spoken)
    held = ", ".join(voice.name for voice in VOICES if voice.held_out)
    lines += [
        "",
        f"{len(words):,} distinct English words in training, and {n_silent} clips in which nothing is said.",
        "Splits are decided by a hash of a sentence's content, so a sentence and its paraphrases in the same frame",
        "fall into one split; synonyms among a frame's words (`star`, `star key`) can put one translation into two.",
        "",
        f"Voices in training: {seen}.  Held out for report: {held}, and the human recordings.",
        "",
        f"Trained for {recipe.training.epochs} epochs on both translations of every clip.  A CTC loss asks the states",
        "over the audio for the English words, as an aid to alignment; no weights of it remain.",
        "",
        *_proofreading(),
    ]
    return "\n".join(lines)


def _proofreading() -> list[str]:
    rounds = yaml.safe_load(_PROOFREADING.read_text(encoding="utf-8"))
    lines = ["Random sentences were proof-read line by line and the grammars mended after each round:", ""]
    lines += ["| round | language | read | wrong | odd |", "|--:|---|--:|--:|--:|"]
    lines += [f"| {r['round']} | {r['language']} | {r['read']} | {r['wrong']} | {r['odd']} |" for r in rounds]
    return lines


def _scores(result: dict[str, Any]) -> str:
    lines = ["## Scores", "", "Report split, greedy decoding, 95 % bootstrap intervals (1,000 samples).", ""]
    metrics = {"de": ("BLEU", "chrF++"), "zh": ("BLEU", "chrF")}
    names = [f"{language} {metric}" for language in LANGUAGES for metric in metrics[language]]
    lines += ["| stratum | clips | " + " | ".join(names) + " |", "|---|--:|" + "--:|" * len(names)]
    by_stratum: dict[str, dict[str, Any]] = {}
    for score in result["scores"]:
        by_stratum.setdefault(score["stratum"], {})[f"{score['language']} {score['metric']}"] = score
    for stratum, found in by_stratum.items():
        cells = [_interval(found[name]) for name in names]
        n_clips = next(iter(found.values()))["n_clips"]
        lines.append(f"| {stratum} | {n_clips} | " + " | ".join(cells) + " |")
    signatures = dict.fromkeys(f"{s['language']} {s['metric']}: `{s['signature']}`" for s in result["scores"])
    lines += ["", *(f"- {signature}" for signature in signatures)]
    return "\n".join(lines)


def _headroom(result: dict[str, Any]) -> str:
    lines = [
        "## A general model",
        "",
        "The model has heard little of `talks`.  Full fine-tuning on talks for one language lifts it there:",
        "",
        "| language | voices | pocket BLEU | fine-tuned BLEU | gain |",
        "|---|---|--:|--:|--:|",
    ]
    before = {(s["stratum"], s["language"]): s for s in result["scores"] if s["metric"] == "BLEU"}
    for language, found in result["headroom"].items():
        for score in found["scores"]:
            if score["metric"] != "BLEU":
                continue
            base = before[score["stratum"], language]
            gain = score["value"] - base["value"]
            voices = score["stratum"].partition(", ")[2]
            lines.append(f"| {language} | {voices} | {_interval(base)} | {_interval(score)} | {gain:+.1f} |")
    return "\n".join(lines)


def _silence(result: dict[str, Any]) -> str:
    lines = [
        "## Silence and noise",
        "",
        "| language | clips without speech | with any output | mean characters |",
        "|---|--:|--:|--:|",
    ]
    for language, (n_clips, n_spoken, mean) in result["silence"].items():
        lines.append(f"| {language} | {n_clips} | {n_spoken} | {mean:.1f} |")
    return "\n".join(lines)


def _interval(score: dict[str, Any]) -> str:
    return f"{score['value']:.1f} ({score['low']:.1f}–{score['high']:.1f})"


def _power(number: int) -> str:
    return f"{number:,}" if number < 10**7 else f"about 10^{math.log10(number):.0f}"
