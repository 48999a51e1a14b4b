"""Utterances and their translations: one split of a data set, and what in it is no good.

A source (`compress.sources`) lists its utterances without opening their audio.  `load` takes one split of them and
looks for what shows at once: missing files, empty translations, ids used twice.  What only decoding shows, `Reading`
finds in the one pass in which the audio is decoded anyway.  Whatever is no good is named with its id and counted, and
ends the run or is left out as the recipe says: nothing is dropped in silence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from compress import prompt, recipe
from compress.audio import SAMPLE_RATE, Samples, decode
from compress.errors import AudioError, AudioTooLong, RecipeError
from compress.recipe import Data

if TYPE_CHECKING:
    from compress.pocket.corpus import Clip
    from compress.sources.splits import Pool

Split = recipe.Split

_MAX_NAMED: Final = 20


class Audio(Protocol):
    """Sound that is decoded when it is asked for."""

    @property
    def key(self) -> str:
        """Identity of the sound, the same in every process: equal keys mean equal samples.  Names cache entries."""

    def load(self, max_s: float | None = None) -> Samples:
        """The sound, shape (n_samples,), mono, at `SAMPLE_RATE`; refused when longer than `max_s` seconds.

        Raises:
            AudioError, OSError: it cannot be read, or is too long.
        """


@dataclass(frozen=True)
class FileAudio:
    """An audio file; its key is the hash of its content."""

    path: Path

    @cached_property
    def key(self) -> str:
        """SHA-256 of the file, read once.  Raises OSError when the file cannot be read."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def load(self, max_s: float | None = None) -> Samples:
        """See `Audio`."""
        return decode(self.path, max_s)


@dataclass(frozen=True)
class BytesAudio:
    """An audio file's content, as it lies in a parquet row; its key is its hash."""

    data: bytes = field(repr=False)
    name: str

    @cached_property
    def key(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.data).hexdigest()

    def load(self, max_s: float | None = None) -> Samples:
        """See `Audio`."""
        return decode(self.data, max_s)


@dataclass(frozen=True)
class ClipAudio:
    """A clip of the pocket corpus, spoken when it is loaded."""

    clip: Clip

    @property
    def key(self) -> str:
        """The clip's id, which follows from its words and its voice."""
        return f"pocket-{self.clip.id}"

    def load(self, max_s: float | None = None) -> Samples:
        """See `Audio`."""
        from compress.pocket.sound import speak_repeatably

        samples = speak_repeatably(self.clip)
        if max_s is not None and len(samples) > round(max_s * SAMPLE_RATE):
            raise AudioTooLong(f"the audio is longer than the limit of {max_s:g} s")
        return samples


@dataclass(frozen=True)
class Utterance:
    """One stretch of English speech and its reference translation.

    Attributes:
        id: unique in its data set.
        audio: the speech.
        translation: the reference.
        transcript: the words said; empty if the source has none.
        talk: the recording it was cut from; empty if unknown.
        speaker: who says it; empty if unknown.
        group: the stratum it is reported in; empty where there is only one.
    """

    id: str
    audio: Audio
    translation: str
    transcript: str = ""
    talk: str = ""
    speaker: str = ""
    group: str = ""


@dataclass(frozen=True)
class Problem:
    """An utterance that cannot be used, and why."""

    id: str
    reason: str

    def __str__(self) -> str:
        return f"{self.id}: {self.reason}"


@dataclass(frozen=True)
class Corpus:
    """The usable utterances of one split.

    Attributes:
        name: source and split, as results and messages call it; says so when the search split is the report split.
        utterances: in the split's order.
        problems: what was left out.
    """

    name: str
    utterances: tuple[Utterance, ...]
    problems: tuple[Problem, ...] = ()


def load(data: Data, language: str, split: Split) -> Corpus:
    """Lists one split of a data set; no audio is decoded.

    Args:
        data: which data set, and how it is split.
        language: code of the translations' language.
        split: under `paper_parity`, search gives the report split's utterances.

    Raises:
        LanguageError: no such language.
        RecipeError: the data set cannot be had or read, is smaller than asked for, has nothing usable in this split,
            or has problems that are fatal; the message names up to 20 and says how many there are.
    """
    from compress.sources.splits import choose

    prompt.language(language)
    drawn: Split = "report" if split == "search" and data.paper_parity else split
    pool = _pool(data, language, drawn)
    repeated = _repeated(pool.utterances)
    usable: list[Utterance] = []
    problems: list[Problem] = []
    for position in choose(pool, data, drawn):
        utterance = pool.utterances[position]
        reason = "an earlier utterance has the same id" if position in repeated else _fault(utterance)
        if reason:
            problems.append(Problem(utterance.id, reason))
        else:
            usable.append(utterance)
    return _settle(_name(data, split), usable, problems, data)


class Reading:
    """One pass over a corpus' audio, in which every clip is decoded once.

        reading = Reading(corpus, data)
        for utterance, samples in reading:
            …
        corpus = reading.corpus

    With `on_problem: fatal` nothing is yielded after the first problem: the others are looked for, and one error names
    them all.
    """

    def __init__(self, corpus: Corpus, data: Data, done: Callable[[str], bool] | None = None) -> None:
        """Prepares the pass.

        Args:
            corpus: what to read.
            data: its `max_s` and `on_problem` apply.
            done: says of an audio key whether an earlier pass has dealt with it; such clips are neither decoded nor
                yielded, and stay in the corpus.
        """
        self._before = corpus
        self._data = data
        self._done = done
        self._after: Corpus | None = None

    @property
    def corpus(self) -> Corpus:
        """The corpus without what could not be read; known once the pass has come to its end."""
        if self._after is None:
            raise RuntimeError("the audio has not been read to the end")
        return self._after

    def __iter__(self) -> Iterator[tuple[Utterance, Samples]]:
        """Yields each utterance with its samples, shape (n_samples,), mono, at `SAMPLE_RATE`.

        Raises:
            RecipeError: at the end, for problems that are fatal, or when nothing could be read.
        """
        usable: list[Utterance] = []
        problems: list[Problem] = []
        for utterance in self._before.utterances:
            try:
                known = self._done is not None and self._done(utterance.audio.key)
                samples = None if known else utterance.audio.load(self._data.max_s)
            except (AudioError, OSError) as error:
                problems.append(Problem(utterance.id, str(error)))
                continue
            usable.append(utterance)
            if samples is not None and not (problems and self._data.on_problem == "fatal"):
                yield utterance, samples
        self._after = _settle(self._before.name, usable, [*self._before.problems, *problems], self._data)


def _pool(data: Data, language: str, split: Split) -> Pool:
    from compress.sources import acl6060, covost2, manifest, pocket

    sources: dict[str, Callable[[Data, str, Split], Pool]] = {
        "acl6060": acl6060.read,
        "covost2": covost2.read,
        "manifest": manifest.read,
        "pocket": pocket.read,
    }
    return sources[data.source](data, language, split)


def _name(data: Data, split: Split) -> str:
    source = f"{data.source} {data.domain}" if data.domain else data.source
    same = " (paper parity: the report utterances)" if split == "search" and data.paper_parity else ""
    return f"{source} {split}{same}"


def _repeated(utterances: Sequence[Utterance]) -> set[int]:
    """Positions of utterances whose id another had before, in whichever split."""
    seen: set[str] = set()
    repeated: set[int] = set()
    for position, utterance in enumerate(utterances):
        if utterance.id in seen:
            repeated.add(position)
        seen.add(utterance.id)
    return repeated


def _fault(utterance: Utterance) -> str:
    """What is wrong with an utterance, as far as it shows without decoding; empty when nothing is."""
    if not utterance.translation.strip():
        return "the translation is empty"
    match utterance.audio:
        case FileAudio(path) if not _is_file(path):
            return f"no audio file {path}"
        case BytesAudio(b"", _):
            return "the audio is empty (0 bytes)"
    return ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a sentence in the place of a path is too long a name
        return False


def _settle(name: str, usable: Sequence[Utterance], problems: Sequence[Problem], data: Data) -> Corpus:
    """The corpus of what is usable, unless problems are fatal or nothing is left.

    Raises:
        RecipeError: see `load`.
    """
    if problems and (data.on_problem == "fatal" or not usable):
        hint = "; on_problem: skip would leave them out" if usable else ""
        lines = [f"{name}: {len(problems)} of {len(usable) + len(problems)} utterances cannot be used{hint}"]
        lines += [f"  {problem}" for problem in problems[:_MAX_NAMED]]
        lines += [f"  … and {len(problems) - _MAX_NAMED} more"] if len(problems) > _MAX_NAMED else []
        raise RecipeError("\n".join(lines))
    return Corpus(name, tuple(usable), tuple(problems))
