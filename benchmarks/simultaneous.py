"""Quality and latency of a translation that came while somebody spoke, by the field's own scorer.

OmniSTEval (Polák et al. 2025, "Better Late Than Never: Evaluation of Latency Metrics for Simultaneous Speech-to-Text
Translation") aligns the text of a whole talk with the reference's sentences, by words or in Chinese by characters, and
scores each with what was aligned to it.  LongYAAL is its average lag behind an ideal interpreter who is as fast as the
speaker; LongLAAL the older measure, which StreamLAAL is with another alignment.  Computation-unaware lags count the
audio that had been heard when a word was sent, computation-aware ones the time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import yaml

from benchmarks.traffic.talk import Talk
from compress.errors import RecipeError
from compress.score import corpus_scores

_LAGS: Final = {
    "LongYAAL (CU)": "yaal_cu_s",
    "LongLAAL (CU)": "laal_cu_s",
    "LongYAAL (CA)": "yaal_ca_s",
    "LongLAAL (CA)": "laal_ca_s",
}


@dataclass(frozen=True)
class Emission:
    """A piece of text: how much had been heard when it was sent, and when it came, both in seconds from the start.

    `came_s` is None where there was no clock.
    """

    text: str
    heard_s: float
    came_s: float | None = None


def scorer() -> str:
    """Its name and version.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        return f"OmniSTEval {version('omnisteval')}"
    except PackageNotFoundError:
        raise RecipeError("OmniSTEval is not installed: it comes with `make test`") from None


def evaluate(talk: Talk, emissions: Sequence[Emission]) -> dict[str, Any]:
    """Scores with intervals and signatures, and lags in seconds; computation-aware ones where there was a clock.

    Raises:
        RecipeError: there is no text to score, or the scorer fails.
    """
    with TemporaryDirectory() as folder:
        directory = Path(folder)
        _write(talk, emissions, directory)
        _run(talk.language, directory)
        lines = (directory / "out" / "scores.tsv").read_text(encoding="utf-8").splitlines()
        aligned = (directory / "out" / "instances.resegmented.jsonl").read_text(encoding="utf-8").splitlines()
    found = dict(line.split("\t") for line in lines)
    pairs = [(one["prediction"], one["reference"]) for one in map(json.loads, aligned)]
    hypotheses, references = zip(*pairs, strict=True)
    scores = corpus_scores(hypotheses, references, talk.language, "report", chosen=("BLEU", "chrF"))
    lags = {ours: round(float(found[theirs]) / 1000, 3) for theirs, ours in _LAGS.items() if theirs in found}
    return {"scores": [score.as_json() for score in scores], **lags}


def _write(talk: Talk, emissions: Sequence[Emission], directory: Path) -> None:
    segments = [{"wav": "talk.wav", "offset": one.start_s, "duration": one.duration_s} for one in talk.sentences]
    (directory / "segments.yaml").write_text(yaml.safe_dump(segments), encoding="utf-8")
    references = [" ".join(one.reference.split()) for one in talk.sentences]
    (directory / "references.txt").write_text("\n".join(references) + "\n", encoding="utf-8")
    (directory / "hypothesis.jsonl").write_text(
        json.dumps(hypothesis(talk, emissions), ensure_ascii=False) + "\n", encoding="utf-8"
    )


def hypothesis(talk: Talk, emissions: Sequence[Emission]) -> dict[str, Any]:
    """What came, with the times of every word (Chinese: of every character), in milliseconds.

    A word has come when its last piece has.

    Raises:
        RecipeError: nothing came.
    """
    units: list[tuple[str, Emission]] = []
    inside = False  # a word that the next piece may go on with
    for emission in emissions:
        for character in emission.text:
            if character.isspace():
                inside = False
            elif inside and talk.language != "zh":
                units[-1] = (units[-1][0] + character, emission)
            else:
                units.append((character, emission))
                inside = True
    if not units:
        raise RecipeError("no text came, so there is nothing to score")
    came_s = [emission.came_s for _, emission in units if emission.came_s is not None]
    return {
        "source": "talk.wav",
        "prediction": ("" if talk.language == "zh" else " ").join(text for text, _ in units),
        "delays": [1000 * emission.heard_s for _, emission in units],
        **({"elapsed": [1000 * one for one in came_s]} if came_s else {}),
        "source_length": 1000 * talk.duration_s,
    }


def _run(language: str, directory: Path) -> None:
    by_character = language == "zh"
    arguments = {
        "speech_segmentation": "segments.yaml",
        "ref_sentences_file": "references.txt",
        "hypothesis_file": "hypothesis.jsonl",
        "bleu_tokenizer": "zh" if by_character else "13a",
        "output_folder": "out",
    }
    flags = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    level = "--char_level" if by_character else "--word_level"
    command = [sys.executable, "-m", "omnisteval.cli", "longform", *flags, level]
    result = subprocess.run(command, cwd=directory, check=False, capture_output=True, text=True)
    if result.returncode:
        raise RecipeError(f"{scorer()} failed: {(result.stderr or result.stdout).strip().splitlines()[-1]}")
