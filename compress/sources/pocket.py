"""The pocket corpus: sentences of this project's own grammars, spoken by free synthesisers (`compress.pocket`).

Nothing is downloaded: sentences follow from the grammars, sound from the sentence and the voice.  The grammars decide
who is in which split; `seed` changes nothing here.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from compress.dataset import ClipAudio, Utterance
from compress.errors import RecipeError
from compress.recipe import Data, Split
from compress.sources.splits import Pool

if TYPE_CHECKING:
    from compress.pocket.corpus import Clip

N_TRAIN: Final = 3000


def read(data: Data, language: str, split: Split) -> Pool:
    """Lists the utterances of one split of `data.domain`.

    `n_report` counts sentences by seen voices, and as many others by held-out voices are added; `group` says which
    is which.  Training clips are varied (rooms, noise, microphones), the others are clean.

    Raises:
        RecipeError: a package or synthesiser is missing, or the grammars have fewer sentences than asked for.
    """
    try:
        from compress.pocket import speech
        from compress.pocket.evaluation import stratum
    except ModuleNotFoundError as error:
        raise RecipeError(f"source pocket needs the package {error.name}: install kompakt-st[pocket]") from error
    speech.check_installed()
    utterances = tuple(
        Utterance(
            id=clip.id,
            audio=ClipAudio(clip),
            translation=str(getattr(clip, language)),
            transcript=clip.en,
            speaker=clip.voice,
            group=stratum(clip),
        )
        for clip in _clips(data, split)
    )
    return Pool(utterances, (split,) * len(utterances))


def _clips(data: Data, split: Split) -> list[Clip]:
    from compress.pocket.grammar import DOMAINS

    if data.domain is None:
        raise RecipeError(f"source pocket needs a domain: {', '.join(DOMAINS)}")
    if split == "train":
        n = wanted = data.n_train or N_TRAIN
    else:
        n = data.n_search if split == "search" else data.n_report
        wanted = n if split == "search" else 2 * n
    clips = [clip for clip in _drawn(split, data.domain, n) if clip.domain == data.domain]
    if len(clips) < wanted:
        raise RecipeError(f"n_{split} {n} needs {wanted} sentences of pocket {data.domain}, and there are {len(clips)}")
    return clips


@cache  # drawing takes seconds, and a process may carry out many recipes
def _drawn(split: Split, domain: str, n: int) -> tuple[Clip, ...]:
    from compress.pocket import corpus
    from compress.pocket.grammar import DOMAINS

    if split == "train":
        return tuple(corpus.training_clips({**dict.fromkeys(DOMAINS, 0), domain: n}, n_silent=0))
    return tuple(corpus.evaluation_clips(split, n))
