"""Sentence grammars: one draw gives the same sentence in English, German and Chinese.

A grammar file holds a `lexicon` (categories of entries, see `lexicon.py`) and `frames`, each with an
English template (or several paraphrases of it), a German and a Chinese one.  A slot `{category}` is
filled from the category, the same entry in all three languages; `{category#2}` is a second, different
one.  Features follow a dot, an adjective slot a colon:

    en: "Could I have {dish.a:taste} and {dish#2.a}, please?"
    de: "Könnte ich bitte {dish.ein.acc:taste} und {dish#2.ein.acc} haben?"
    zh: "请给我一{dish.m}{taste}的{dish}和一{dish#2.m}{dish#2}，好吗？"
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from compress.pocket import shared_lexicon
from compress.pocket.lexicon import (
    Adjective,
    Entry,
    GrammarError,
    Noun,
    Phrase,
    contract,
    parse_entry,
)

FRAMES_DIR: Final = Path(__file__).parent / "frames"
DOMAINS: Final = ("talks", "daily", "phone")

_SLOT = re.compile(r"\{([a-z_]+)(#\d)?((?:\.[A-Za-z0-9]+)*)(?::([a-z_]+)(#\d)?)?\}")
_MAX_DRAWS = 50

Lexicon = dict[str, list[Entry]]


@dataclass(frozen=True)
class Frame:
    """One sentence pattern: paraphrased English templates, one German, one Chinese."""

    domain: str
    topic: str
    number: int
    en: tuple[str, ...]
    de: str
    zh: str
    lexicon: Lexicon = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Where the frame stands: `domain/file#number`."""
        return f"{self.domain}/{self.topic}#{self.number}"


@dataclass(frozen=True)
class Sentence:
    """One drawn sentence; `key` is its first paraphrase, shared by all paraphrases of the content."""

    domain: str
    frame: str
    key: str
    en: str
    de: str
    zh: str


@dataclass(frozen=True)
class _Filling:
    """An entry chosen for a slot and, for phrases, what fills the slots inside it."""

    entry: Entry
    inner: dict[str, _Filling]


def load_file(path: Path, domain: str, n_draws: int = _MAX_DRAWS) -> list[Frame]:
    """Reads and checks one grammar file, `n_draws` sentences of each frame among it.

    Raises:
        GrammarError: with every mistake in it.
    """
    content = shared_lexicon.read_yaml(path)
    problems: list[str] = []
    lexicon = dict(shared_lexicon.load())
    for category, body in (content.get("lexicon") or {}).items():
        if category in lexicon:
            problems.append(f"category {category!r} exists already (shared lexicon)")
            continue
        if not isinstance(body, dict) or len(body) != 1:
            problems.append(f"category {category!r}: expected one of noun:, adjective:, phrase: with a list")
            continue
        ((kind, lines),) = body.items()
        entries: list[Entry] = []
        for line in lines or []:
            try:
                entries.append(parse_entry(kind, str(line)))
            except GrammarError as error:
                problems.append(f"{category}: {error}")
        lexicon[category] = entries
    frames = []
    for number, body in enumerate(content.get("frames") or []):
        en = body["en"] if isinstance(body["en"], list) else [body["en"]]
        frame = Frame(domain, path.stem, number, tuple(en), body["de"], body["zh"], lexicon)
        found = list(_problems(frame, n_draws))
        problems += [f"frame {number} ({en[0]!r}): {problem}" for problem in found]
        frames.append(frame)
    if problems:
        raise GrammarError(f"{path}:\n  " + "\n  ".join(problems))
    return frames


@cache
def load_domain(domain: str) -> tuple[Frame, ...]:
    """All frames of a domain, in the order of the sorted file names."""
    if domain not in DOMAINS:
        raise GrammarError(f"unknown domain {domain!r}; valid: {', '.join(DOMAINS)}")
    frames: list[Frame] = []
    for path in sorted((FRAMES_DIR / domain).glob("*.yaml")):
        # these come with the package, and a test draws from each frame
        frames += load_file(path, domain, n_draws=0)
    return tuple(frames)


def count_fillings(frame: Frame) -> int:
    """How many fillings the frame has, paraphrases not counted."""
    return math.prod(_category_size(frame.lexicon, key) for key in _slots(frame.en[0]))


def draw(frame: Frame, rng: random.Random) -> Sentence:
    """Fills the frame at random and renders one of its English paraphrases."""
    fillings = _fill(list(_slots(frame.en[0])), frame.lexicon, rng)
    texts = [_finish(_render(template, "en", fillings), "en") for template in frame.en]
    return Sentence(
        domain=frame.domain,
        frame=frame.name,
        key=texts[0],
        en=rng.choice(texts),
        de=_finish(_render(frame.de, "de", fillings), "de"),
        zh=_finish(_render(frame.zh, "zh", fillings), "zh"),
    )


def _slots(template: str) -> dict[str, None]:
    keys: dict[str, None] = {}
    for category, index, _, adjective, adjective_index in _SLOT.findall(template):
        keys[category + index] = None
        if adjective:
            keys[adjective + adjective_index] = None
    return keys


def _category(key: str) -> str:
    return key.partition("#")[0]


def _phrase_slots(phrase: Phrase) -> dict[str, None]:
    return {key: None for column in phrase.en for key in _slots(column)}


def _category_size(lexicon: Lexicon, key: str) -> int:
    total = 0
    for entry in lexicon[_category(key)]:
        inner = _phrase_slots(entry) if isinstance(entry, Phrase) else {}
        total += math.prod(_category_size(lexicon, inner_key) for inner_key in inner)
    return total


def _fill(keys: list[str], lexicon: Lexicon, rng: random.Random) -> dict[str, _Filling]:
    fillings: dict[str, _Filling] = {}
    for key in keys:
        taken = [fillings[other].entry for other in fillings if _category(other) == _category(key)]
        choices = [entry for entry in lexicon[_category(key)] if entry not in taken]
        entry = rng.choice(choices)
        inner = _fill(list(_phrase_slots(entry)), lexicon, rng) if isinstance(entry, Phrase) else {}
        fillings[key] = _Filling(entry, inner)
    return fillings


def _render(template: str, language: str, fillings: dict[str, _Filling]) -> str:
    def replace(match: re.Match[str]) -> str:
        category, index, dotted, adjective_category, adjective_index = match.groups(default="")
        features = [feature for feature in dotted.split(".") if feature]
        filling = fillings[category + index]
        adjective = fillings[adjective_category + adjective_index].entry if adjective_category else None
        if adjective is not None and not isinstance(adjective, Adjective):
            raise GrammarError(f"{match[0]}: {adjective_category!r} is no adjective category")
        match filling.entry:
            case Phrase() as phrase:
                return _render(phrase.column(language, features), language, filling.inner)
            case Noun() as noun:
                forms = {"en": noun.english, "de": noun.german, "zh": noun.chinese}
                return forms[language](features, adjective)
            case Adjective() as plain:
                return {"en": plain.en, "de": plain.predicative, "zh": plain.zh}[language]

    return _SLOT.sub(replace, template)


def _finish(text: str, language: str) -> str:
    text = re.sub(r" +", " ", text).strip()
    if language == "zh":
        return text
    text = contract(text)
    return text[0].upper() + text[1:]


def _problems(frame: Frame, n_draws: int) -> Iterator[str]:
    """What is wrong with a frame: unknown categories, slots missing in a language, forms that fail in so many draws."""
    keys = _slots(frame.en[0])
    for template in (*frame.en, frame.de, frame.zh):
        stray = re.search(r"[{}]", _SLOT.sub("", template))
        if stray:
            yield f"unreadable slot in {template!r}"
        if set(_slots(template)) != set(keys):
            yield f"slots of {template!r} are {sorted(_slots(template))}, of the first English {sorted(keys)}"
    unknown = [key for key in keys if _category(key) not in frame.lexicon]
    if unknown:
        yield f"unknown categories {unknown}; known: {', '.join(sorted(frame.lexicon))}"
        return
    rng = random.Random(0)
    for _ in range(n_draws):
        try:
            draw(frame, rng)
        except (GrammarError, KeyError, IndexError) as error:
            yield f"does not render: {error}"
            return


def main(arguments: list[str]) -> None:
    """`check FILE…` or `sample FILE [N]`: the grammar writer's tool."""
    verb, *rest = arguments
    if verb == "check":
        for name in rest:
            frames = load_file(Path(name), Path(name).parent.name)
            words = {word.lower() for frame in frames for word in re.findall(r"[A-Za-z'-]+", _all_english(frame))}
            total = sum(count_fillings(frame) for frame in frames)
            print(f"{name}: {len(frames)} frames, {total:,} fillings, {len(words)} English words")
    elif verb == "sample":
        path = Path(rest[0])
        frames = load_file(path, path.parent.name)
        rng = random.Random(int(rest[2]) if len(rest) > 2 else None)
        for i in range(int(rest[1]) if len(rest) > 1 else 2 * len(frames)):
            s = draw(frames[i % len(frames)], rng)
            print(f"[{s.frame}]\n  {s.en}\n  {s.de}\n  {s.zh}")
    else:
        raise SystemExit("usage: grammar check FILE… | sample FILE [N [SEED]]")


def _all_english(frame: Frame) -> str:
    texts: list[str] = [*frame.en]
    pending = list(_slots(frame.en[0]))
    visited: set[str] = set()
    while pending:
        category = _category(pending.pop())
        if category in visited:
            continue
        visited.add(category)
        for entry in frame.lexicon[category]:
            if isinstance(entry, Phrase):
                texts += entry.en
                pending += _phrase_slots(entry)
            elif isinstance(entry, Noun):
                texts += [entry.en, entry.en_plural or ""]
            else:
                texts.append(entry.en)
    return _SLOT.sub(" ", " ".join(texts))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
