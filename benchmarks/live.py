"""`python -m benchmarks live`: what live translation costs in quality and in waiting, and how many speakers fit.

Talks are made of the pocket corpus' report clips, with pauses (`benchmarks/traffic/talk.py`), and scored by OmniSTEval
(`benchmarks/simultaneous.py`), under both policies of `serve.live`:

- `offline`: every sentence by itself, cut where it really begins and ends, which live translation cannot know;
- simulated: the session's core is fed 200 ms at a time, and a translation takes no time.  The same text every time;
  its lags are computation-unaware: how much had been heard when a word was sent;
- paced: a client speaks to a server in a process of its own, as fast as people speak, and lags are computation-aware:
  when a word came.  What the engine is asked for, and so the text, depends on how fast it is.

What to expect.  `segment` sends nothing before a stretch of speech has ended (0.6 s after it, at the earliest), so its
lag is about half a sentence and that pause; `agreement` sends words with a lag of about two re-translations, for some
quality: a beginning that was sent binds what follows.  It has every second of speech translated several times, so
fewer speakers fit.

How many fit.  More and more speakers speak for a minute at the same time, each at another place of the talk, into both
languages in turn.  `lag` is what a piece of text came after the audio that it follows from had been heard.  They fit
as long as the lag does not grow: the median of the last third of the pieces is less than a second above the first's.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.simultaneous import Emission, evaluate, scorer
from benchmarks.traffic import speakers
from benchmarks.traffic.server_process import serving
from benchmarks.traffic.talk import CHUNK_S, Talk, talk
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import RecipeError
from compress.prompt import LANGUAGES
from compress.score import corpus_scores
from serve.engine import Request, Result, Translator
from serve.engines.transformers_engine import TransformersEngine
from serve.live.pcm import PcmStream, decode_pcm
from serve.live.policies import POLICIES, Pace, Policy
from serve.live.session import Session

MINUTES: Final = 3.0
SPEAKERS: Final = (1, 2, 4, 8)
AGAIN_S: Final = 1.0

_CROWD_S: Final = 60
_GROWTH_S: Final = 1.0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--model", type=Path, default=POCKET, metavar="DIR", help="checkpoint (default: pocket)")
    parser.add_argument("--languages", nargs="+", choices=list(LANGUAGES), default=list(LANGUAGES), help="default: all")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, metavar="M", help=f"of each talk (default: {MINUTES:g})"
    )
    parser.add_argument(
        "--again", type=float, default=AGAIN_S, metavar="S", help=f"of speech between two hypotheses ({AGAIN_S:g})"
    )
    numbers = " ".join(map(str, SPEAKERS))
    parser.add_argument(
        "--speakers", type=int, nargs="+", default=SPEAKERS, metavar="N", help=f"at once (default: {numbers})"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints tables, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, or the server fails.
        CheckpointError: the checkpoint does not load.
    """
    if options.minutes <= 0 or min(options.speakers) < 1:
        raise RecipeError("--minutes must be more than 0, and each of --speakers at least 1")
    scored_by = scorer()
    checkpoint = Checkpoint.open(options.model)
    talks = [talk(language, options.minutes) for language in options.languages]
    with asyncio.Runner() as runner:
        simulated = list(_simulated(runner, TransformersEngine([checkpoint]), talks, options.again))
    with serving(options.model, "--live-again-s", str(options.again)) as server:
        paced = [_paced(server.url, checkpoint.name, one, policy) for one in talks for policy in POLICIES]
        crowds = [
            _crowd(server.url, checkpoint.name, talks, n, policy) for policy in POLICIES for n in options.speakers
        ]
    _print([*simulated, *paced], crowds, f"{checkpoint.name}, talks of {options.minutes:g} minutes, {scored_by}")
    return {
        "model": {"name": checkpoint.name, "bytes": checkpoint.n_bytes},
        "scorer": scored_by,
        "minutes": options.minutes,
        "again_s": options.again,
        "sentences": len(talks[0].sentences),
        "talks": [*simulated, *paced],
        "crowds": crowds,
    }


def _simulated(
    runner: asyncio.Runner, engine: Translator, talks: Sequence[Talk], again_s: float
) -> Iterator[dict[str, Any]]:
    """Offline, and both policies with a translator that takes no time."""
    runner.run(engine.start())
    try:
        for one in talks:
            texts = [runner.run(_translated(engine, each.samples, one.language)) for each in one.sentences]
            references = [each.reference for each in one.sentences]
            scores = corpus_scores(texts, references, one.language, "report", chosen=("BLEU", "chrF"))
            yield _row(one, "offline", "simulated", {"scores": [score.as_json() for score in scores]})
            for policy in POLICIES:
                emissions = list(_interpreted(runner, engine, one, Pace.of(policy, again_s)))
                yield _row(one, policy, "simulated", evaluate(one, emissions))
    finally:
        runner.run(engine.close())


def _interpreted(runner: asyncio.Runner, engine: Translator, one: Talk, pace: Pace) -> Iterator[Emission]:
    """What a session says of a talk while it hears it."""
    session, pcm = Session(one.language, pace), PcmStream()

    def answers() -> Iterator[Emission]:
        while (question := session.step()) is not None:
            text = session.hear(runner.run(_translated(engine, question.samples, question.to_language)))
            yield Emission(text + session.conclude(), session.heard_s)

    for chunk in one.chunks():
        session.feed(pcm.feed(decode_pcm(chunk)))
        yield from answers()
    session.finish()
    yield from answers()


async def _translated(engine: Translator, samples: Any, language: str) -> str:
    events = [event async for event in engine.translate(Request(engine.models[0].name, samples, language))]
    result = events[-1]
    assert isinstance(result, Result), "an engine ends with one"
    return result.text


def _paced(url: str, model: str, one: Talk, policy: Policy) -> dict[str, Any]:
    """One speaker at the pace of speech."""
    heard = asyncio.run(speakers.speak(url, model, policy, one.language, list(one.chunks())))
    return _row(one, policy, "paced", evaluate(one, heard.emissions) | _lags([heard]))


def _crowd(url: str, model: str, talks: Sequence[Talk], n_speakers: int, policy: Policy) -> dict[str, Any]:
    """Several speakers at once."""
    chunks = [list(one.chunks()) for one in talks]

    async def speak() -> list[speakers.Heard]:
        return await asyncio.gather(
            *(
                speakers.speak(url, model, policy, talks[i % len(talks)].language, _from(chunks[i % len(talks)], part))
                for i, part in enumerate(np.arange(n_speakers) / n_speakers)
            )
        )

    return {"policy": policy, "speakers": n_speakers, **_lags(asyncio.run(speak()))}


def _from(chunks: Sequence[str], part: float) -> list[str]:
    """A minute of a talk, from a part of it on; after its end, its beginning follows."""
    first = round(part * len(chunks))
    return [*chunks[first:], *chunks[:first]][: round(_CROWD_S / CHUNK_S)]


def _lags(listeners: Sequence[speakers.Heard]) -> dict[str, Any]:
    """How late text came, and whether it came later and later."""
    lags_s, growth_s = [], []
    for heard in listeners:
        mine = [emission.came_s - emission.heard_s for emission in heard.emissions if emission.came_s is not None]
        third = max(1, len(mine) // 3)
        lags_s += mine
        growth_s.append(statistics.median(mine[-third:]) - statistics.median(mine[:third]) if mine else 0.0)
    p50, p95 = np.quantile(lags_s, [0.5, 0.95]) if lags_s else (0.0, 0.0)
    return {
        "lag_s": {"p50": round(float(p50), 3), "p95": round(float(p95), 3)},
        "growth_s": round(max(growth_s), 3),
        "behind_s": round(max(heard.behind_s for heard in listeners), 3),
        "fits": max(growth_s) < _GROWTH_S,
    }


def _row(one: Talk, policy: str, how: str, numbers: dict[str, Any]) -> dict[str, Any]:
    return {"language": one.language, "policy": policy, "how": how, **numbers}


def _print(talks: Sequence[dict[str, Any]], crowds: Sequence[dict[str, Any]], title: str) -> None:
    columns = ["language", "policy", "how", "BLEU", "chrF", "LongYAAL", "LongLAAL", "LongYAAL", "LongLAAL"]
    table = Table(*columns, title=f"{title}; lags in s, computation-unaware and -aware", title_justify="left")
    for one in talks:
        scores = [f"{score['value']:.1f} ({score['low']:.1f}–{score['high']:.1f})" for score in one["scores"]]
        lags = [one.get(name) for name in ("yaal_cu_s", "laal_cu_s", "yaal_ca_s", "laal_ca_s")]
        cells = ["" if lag is None else f"{lag:.2f}" for lag in lags]
        table.add_row(one["language"], one["policy"], one["how"], *scores, *cells)
    people = Table("policy", "speakers", "lag p50", "p95", "growth", "behind", "fit", title="speakers at once")
    for one in crowds:
        seconds = [one["lag_s"]["p50"], one["lag_s"]["p95"], one["growth_s"], one["behind_s"]]
        cells = [f"{value:.2f} s" for value in seconds]
        people.add_row(one["policy"], str(one["speakers"]), *cells, "yes" if one["fits"] else "no")
    console = Console(width=140)
    console.print(table)
    console.print(people)
