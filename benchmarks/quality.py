"""`python -m benchmarks quality`: what callers of the server get, scored, by kind of speech and of voice.

The pocket corpus' report split goes through the real server as single recordings: its three domains, each by voices
heard in training and by held-out ones; the human recordings, where their package is installed; and, cut across all of
them, recordings of up to three seconds, to five, and longer.  So that the figures are what a caller gets, speech is
searched for, cut and joined as in production.  `compress` scores models; this scores the product.

BLEU, and chrF++ for German or chrF for Chinese, have sacreBLEU's signatures and 95 % bootstrap intervals; each other
model is compared with the first by the paired bootstrap on the same sentences.  COMET needs weights that come with no
package: `--comet-model` names them, and `make comet` the environment.

The server translates some of the recordings once more, fewer at a time and in another order: any text that differs then
is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import forms
from benchmarks.traffic import recordings
from benchmarks.traffic.callers import calling
from benchmarks.traffic.recordings import Domain, Recording
from benchmarks.traffic.server_process import serving, starting
from compress import comet, comet_scores, score
from compress.audio import SAMPLE_RATE
from compress.checkpoint import POCKET, Checkpoint
from compress.dataset import ClipAudio, Utterance
from compress.errors import RecipeError
from compress.prompt import LANGUAGES

SENTENCES: Final = 12
HUMAN: Final = 48
STUDENTS: Final = tuple(sorted(forms.STUDENTS.iterdir()))
_CALLERS: Final = 8
_AGAIN: Final = 24
_LENGTHS_S: Final = (3.0, 5.0)
# below it an interval says nothing
_FEWEST: Final = 10


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument(
        "--models",
        type=Path,
        nargs="+",
        default=(POCKET, *STUDENTS),
        metavar="DIR",
        help="the first is compared with (default: pocket and its students)",
    )
    parser.add_argument(
        "--sentences",
        type=int,
        default=SENTENCES,
        metavar="N",
        help=f"of each domain, by seen voices, and as many by others (default: {SENTENCES})",
    )
    parser.add_argument(
        "--human", type=int, default=HUMAN, metavar="N", help=f"human recordings at most (default: {HUMAN})"
    )
    parser.add_argument("--comet-model", metavar="NAME", help="a name or a checkpoint; without it no COMET")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints tables, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, a synthesiser is missing, or the server does not start.
    """
    if options.sentences < 1 or options.human < 0:
        raise RecipeError("--sentences must be at least 1, and --human at least 0")
    checkpoints = [Checkpoint.open(one) for one in options.models]
    first, *others = checkpoints
    more = [flag for one in others for flag in ("--model", str(one.path))]
    with starting([serving(first.path, *more)]) as (server,):
        spoken = _spoken(options.sentences, options.human)
        found = asyncio.run(_translations(server.result().url, checkpoints, spoken))
    languages = [
        _scored(language, spoken, texts, checkpoints, options.comet_model) for language, texts in found.items()
    ]
    _print(languages)
    return {
        "models": [{"name": one.name, "bytes": one.n_bytes} for one in checkpoints],
        "sentences": options.sentences,
        "human": options.human,
        "recordings": len(spoken),
        "asked_again": min(_AGAIN, len(spoken)),
        "languages": languages,
    }


class Spoken:
    """A clip of the corpus and the recording of it."""

    def __init__(self, utterance: Utterance, references: Mapping[str, str]) -> None:
        samples = utterance.audio.load()
        self.transcript = utterance.transcript
        self.references = references
        self.seconds = len(samples) / SAMPLE_RATE
        self.group = utterance.group
        self._samples = samples
        self._file = recordings.encoded(samples, "wav")

    def into(self, language: str) -> Recording:
        """What a caller sends."""
        return Recording(self._file, self.seconds, language, self._samples)

    @property
    def length(self) -> str:
        """The group of its length."""
        for most_s in _LENGTHS_S:
            if self.seconds <= most_s:
                return f"up to {most_s:g} s"
        return f"over {_LENGTHS_S[-1]:g} s"


def _spoken(n: int, n_human: int) -> list[Spoken]:
    from compress.pocket.corpus import human_prompts

    found = []
    for domain in get_args(Domain):
        for one in recordings.utterances(2 * n, domain):
            assert isinstance(one.audio, ClipAudio)
            found.append(Spoken(one, {code: getattr(one.audio.clip, code) for code in LANGUAGES}))
    there = [clip for clip in human_prompts() if Path(clip.path).is_file()]
    for clip in there[:: max(1, -(-len(there) // n_human))] if n_human else ():
        prompt = Utterance(clip.id, ClipAudio(clip), clip.de, clip.en, group="phone, human recordings")
        found.append(Spoken(prompt, {code: getattr(clip, code) for code in LANGUAGES}))
    return found


async def _translations(
    url: str, checkpoints: Sequence[Checkpoint], spoken: Sequence[Spoken]
) -> dict[str, dict[str, tuple[list[str], int]]]:
    """By language and model: texts in order, and how many were others the second time."""
    wanted = [
        (language, one)
        for language in LANGUAGES
        for one in checkpoints
        if one.lineage.get("language", language) == language
    ]
    found: dict[str, dict[str, tuple[list[str], int]]] = {language: {} for language in LANGUAGES}
    async with calling(url) as callers:
        with Progress() as progress:
            task = progress.add_task("translations", total=2 * len(wanted))
            for language, checkpoint in wanted:
                sent = [one.into(language) for one in spoken]
                bout = await callers.closed_loop(sent, checkpoint.name, _CALLERS)
                progress.advance(task)
                again = await callers.closed_loop(sent[:_AGAIN][::-1], checkpoint.name, _CALLERS // 2)
                progress.advance(task)
                texts = [one.text or "" for one in bout.answers]
                differ = sum(a != b.text for a, b in zip(texts, again.answers[::-1], strict=False))
                found[language][checkpoint.name] = (texts, differ)
    return found


def _scored(
    language: str,
    spoken: Sequence[Spoken],
    texts: Mapping[str, tuple[list[str], int]],
    checkpoints: Sequence[Checkpoint],
    comet_model: str | None,
) -> dict[str, Any]:
    """What the row keeps of a language."""
    references = [one.references[language] for one in spoken]
    judged = _judged(spoken, {name: one for name, (one, _) in texts.items()}, references, comet_model)
    base = texts[checkpoints[0].name][0]
    models = []
    for name, (hypotheses, differ) in texts.items():
        scores = []
        for group, rows in _groups(spoken):
            mine = [hypotheses[i] for i in rows], [references[i] for i in rows]
            scores += [one.as_json() for one in score.corpus_scores(*mine, language, "report", group=group)]
            if comet_model is not None:
                values, signature = [judged[name][i] for i in rows], comet.signature_of(comet_model)
                scores.append(comet_scores.corpus_score(values, signature, language, "report", group=group).as_json())
        compared = (
            [one.as_json() for one in score.compare(hypotheses, base, references, language, "report")]
            if name != checkpoints[0].name
            else []
        )
        models.append({"name": name, "differ": differ, "scores": scores, "compared": compared})
    return {"language": language, "models": models}


def _groups(spoken: Sequence[Spoken]) -> list[tuple[str, list[int]]]:
    """All of it, without a name, then each domain and voice, then each length."""
    found: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(spoken):
        found[one.group].append(number)
    for number, one in sorted(enumerate(spoken), key=lambda each: each[1].seconds):
        found[one.length].append(number)
    listed = [(group, rows) for group, rows in found.items() if len(rows) >= _FEWEST]
    return [("", list(range(len(spoken)))), *listed]


def _judged(
    spoken: Sequence[Spoken], texts: Mapping[str, list[str]], references: Sequence[str], model: str | None
) -> Mapping[str, Sequence[float]]:
    """COMET of every sentence, by model of ours."""
    if model is None:
        return {}
    return comet.score([one.transcript for one in spoken], dict(texts), references, model)


def _print(languages: Sequence[Mapping[str, Any]]) -> None:
    console = Console(width=120)
    for each in languages:
        metrics = list(dict.fromkeys(one["metric"] for model in each["models"] for one in model["scores"]))
        table = Table("model", "of", *metrics, title=LANGUAGES[each["language"]].name, title_justify="left")
        for model in each["models"]:
            for group, scores in itertools.groupby(model["scores"], key=lambda one: one["group"]):
                cells = ["{value:.1f} ({low:.1f}–{high:.1f})".format(**one) for one in scores]
                table.add_row(model["name"], group or "all", *cells)
        console.print(table)
