"""Words of the pocket corpus in three languages, and the German inflection they need.

A lexicon entry is one line, `English ; German ; Chinese`, of one of three kinds:

noun        `soup ; f Suppe/Suppen ; 碗 汤`
            English `singular[/plural]`, the indefinite article in front if the spelling misleads
            (`an hour`), `/-` for no plural.  German `gender singular/plural[/oblique[/genitive]]`,
            gender m, f or n.  Chinese `measure-word noun`.
adjective   `dark ; dunkel/dunkl ; 深色`       German `predicative[/attributive stem]`
phrase      `pick up | picked up ; hole | ab | abgeholt ; 取`      columns of free text, which may
            hold slots of their own
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

CASES: Final = ("nom", "acc", "dat", "gen")
DER_WORDS: Final = ("der", "dies", "jed", "welch")
EIN_WORDS: Final = ("ein", "kein", "mein", "dein", "sein", "ihr", "Ihr", "unser")
DETERMINERS: Final = DER_WORDS + EIN_WORDS

# Endings by case, in the order masculine, feminine, neuter, plural.
_DEFINITE = {"nom": "der die das die", "acc": "den die das die", "dat": "dem der dem den", "gen": "des der des der"}
_DER_ENDINGS = {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en", "gen": "es er es er"}
_EIN_ENDINGS = {"nom": "- e - e", "acc": "en e - e", "dat": "em er em en", "gen": "es er es er"}
_WEAK = {"nom": "e e e en", "acc": "en e e en", "dat": "en en en en", "gen": "en en en en"}
_MIXED = {"nom": "er e es en", "acc": "en e es en", "dat": "en en en en", "gen": "en en en en"}
_STRONG = {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en", "gen": "en er en er"}
_PRONOUNS = {"er": "er sie es sie", "ihn": "ihn sie es sie", "ihm": "ihm ihr ihm ihnen"}
_RELATIVE = {"nom": "der die das die", "acc": "den die das die", "dat": "dem der dem denen"}

# Marks a rendered German definite article, so that only articles contract ("in dem" → "im"),
# never relative pronouns.
ARTICLE_MARK: Final = "\x02"

_CONTRACTIONS: Final = {
    "in dem": "im",
    "in das": "ins",
    "an dem": "am",
    "an das": "ans",
    "von dem": "vom",
    "bei dem": "beim",
    "zu dem": "zum",
    "zu der": "zur",
}
_CONTRACTED: Final = {
    spell(pair).replace(" ", f" {ARTICLE_MARK}"): spell(contracted)
    for pair, contracted in _CONTRACTIONS.items()
    for spell in (str.lower, str.capitalize)
}
_CONTRACTIBLE: Final = re.compile(rf"\b({'|'.join(_CONTRACTED)})\b")


class GrammarError(ValueError):
    """A mistake in a grammar file; the message names the file, the entry and the valid choices."""


def _by_gender(row: str, gender: str, plural: bool) -> str:
    form = row.split()["mfn".index(gender) if not plural else 3]
    return "" if form == "-" else form


@dataclass(frozen=True)
class Adjective:
    """An adjective: English and Chinese as they stand, German as predicative form and stem."""

    en: str
    predicative: str
    stem: str
    zh: str

    @classmethod
    def parse(cls, en: str, de: str, zh: str) -> Adjective:
        """Parses the three parts of an adjective's line."""
        predicative, _, stem = de.partition("/")
        # "teuer" loses its e before an ending, "dunkel" too; an unmarked stem is taken as it is.
        return cls(en, predicative, stem or predicative, zh)

    def decline(self, determiner: str | None, case: str, gender: str, plural: bool) -> str:
        """The attributive form, with the ending the determiner in front of it leaves to it."""
        if determiner in DER_WORDS:
            table = _WEAK
        elif determiner in EIN_WORDS and not (determiner == "ein" and plural):
            table = _MIXED
        else:
            table = _STRONG
        ending = _by_gender(table[case], gender, plural)
        stem = self.stem
        return stem + (ending[1:] if stem.endswith("e") else ending)


@dataclass(frozen=True)
class Noun:
    """A noun with everything its three languages need to inflect it."""

    en: str
    en_plural: str | None
    en_article: str
    gender: str
    de: str
    de_plural: str | None
    de_oblique: str
    de_genitive: str
    measure: str
    zh: str

    @classmethod
    def parse(cls, en: str, de: str, zh: str) -> Noun:
        """Parses the three parts of a noun's line."""
        article = re.match(r"(an?) (.+)", en)
        singular, _, plural = (article[2] if article else en).partition("/")
        gender, _, forms = de.partition(" ")
        if gender not in ("m", "f", "n"):
            raise GrammarError(f"noun {en!r}: German gender {gender!r} is not one of m, f, n")
        de_forms = [*forms.split("/"), "", "", ""][:4]
        if not de_forms[0] or not de_forms[1]:
            raise GrammarError(f"noun {en!r}: German needs singular/plural (or /-), got {forms!r}")
        measure, _, zh_noun = zh.partition(" ")
        if not zh_noun:
            raise GrammarError(f"noun {en!r}: Chinese needs 'measure-word noun', got {zh!r}")
        return cls(
            en=singular,
            en_plural=None if plural == "-" else plural or _english_plural(singular),
            en_article=article[1] if article else _english_article(singular),
            gender=gender,
            de=de_forms[0],
            de_plural=None if de_forms[1] == "-" else de_forms[1],
            de_oblique=de_forms[2] or de_forms[0],
            de_genitive=de_forms[3] or de_forms[2] or _german_genitive(de_forms[0], gender),
            measure=measure,
            zh=zh_noun,
        )

    def english(self, features: list[str], adjective: Adjective | None) -> str:
        """`""`, `a`, `pl`: bare, with the indefinite article, plural."""
        words = [adjective.en] if adjective else []
        if "pl" in features:
            if self.en_plural is None:
                raise GrammarError(f"noun {self.en!r} has no English plural")
            words.append(self.en_plural)
        else:
            words.append(self.en)
        if "a" in features:
            words.insert(0, _english_article(words[0]) if adjective else self.en_article)
        unknown = set(features) - {"a", "pl"}
        if unknown:
            raise GrammarError(f"English noun slot: unknown {sorted(unknown)}; valid: a, pl")
        return " ".join(words)

    def german(self, features: list[str], adjective: Adjective | None) -> str:
        """A declined noun phrase, or a pronoun that stands for it.

        Features: a determiner (der, ein, kein, mein, …), a case, `pl`, or one of er, ihn, ihm
        (personal pronoun) or `rel` with a case (relative pronoun).
        """
        valid = {*DETERMINERS, *CASES, *_PRONOUNS, "pl", "rel"}
        if unknown := set(features) - valid:
            raise GrammarError(f"German noun slot: unknown {sorted(unknown)}; valid: {', '.join(sorted(valid))}")
        plural = "pl" in features
        case = next((f for f in features if f in CASES), "nom")
        for pronoun, row in _PRONOUNS.items():
            if pronoun in features:
                return _by_gender(row, self.gender, plural)
        if "rel" in features:
            return _by_gender(_RELATIVE[case], self.gender, plural)
        determiner = next((f for f in features if f in DETERMINERS), None)
        words = [_determiner(determiner, case, self.gender, plural)] if determiner else []
        if adjective:
            words.append(adjective.decline(determiner, case, self.gender, plural))
        words.append(self._german_form(case, plural))
        return " ".join(filter(None, words))

    def _german_form(self, case: str, plural: bool) -> str:
        if not plural:
            return {"nom": self.de, "gen": self.de_genitive}.get(case, self.de_oblique)
        if self.de_plural is None:
            raise GrammarError(f"noun {self.de!r} has no German plural")
        # Plurals in -e, -er and -el take an n in the dative; -en, -s and foreign -a do not.
        takes_n = case == "dat" and self.de_plural.endswith(("e", "er", "el"))
        return self.de_plural + ("n" if takes_n else "")

    def chinese(self, features: list[str], adjective: Adjective | None) -> str:
        """The noun, or with `m` its measure word."""
        if unknown := set(features) - {"m"}:
            raise GrammarError(f"Chinese noun slot: unknown {sorted(unknown)}; valid: m")
        if adjective:
            raise GrammarError("Chinese takes adjectives as slots of their own: {adjective}的{noun}")
        return self.measure if features else self.zh


@dataclass(frozen=True)
class Phrase:
    """Free text in columns per language; each column is a template that may hold slots."""

    en: tuple[str, ...]
    de: tuple[str, ...]
    zh: tuple[str, ...]

    @classmethod
    def parse(cls, en: str, de: str, zh: str) -> Phrase:
        """Parses the three parts of a phrase's line, each of one or more columns."""
        en_columns, de_columns, zh_columns = (tuple(part.strip() for part in text.split("|")) for text in (en, de, zh))
        return cls(en_columns, de_columns, zh_columns)

    def column(self, language: str, features: list[str]) -> str:
        """The column that the slot's number asks for; without a number the first."""
        columns: tuple[str, ...] = getattr(self, language)
        wanted = features[0] if features else "1"
        if len(features) > 1 or not wanted.isdigit() or not 1 <= int(wanted) <= len(columns):
            raise GrammarError(
                f"phrase {self.en[0]!r} has {language} columns 1 to {len(columns)}, not {'.'.join(features)}"
            )
        return columns[int(wanted) - 1]


Entry = Noun | Adjective | Phrase


def parse_entry(kind: str, line: str) -> Entry:
    """Parses `English ; German ; Chinese` as a noun, adjective or phrase."""
    parts = [part.strip() for part in line.split(";")]
    if len(parts) != 3 or not all(parts):
        raise GrammarError(f"{line!r}: expected 'English ; German ; Chinese'")
    en, de, zh = parts
    match kind:
        case "noun":
            return Noun.parse(en, de, zh)
        case "adjective":
            return Adjective.parse(en, de, zh)
        case "phrase":
            return Phrase.parse(en, de, zh)
    raise GrammarError(f"unknown kind {kind!r}; valid: noun, adjective, phrase")


def contract(text: str) -> str:
    r"""Contracts preposition and marked article as German does, then drops the marks.

    >>> contract("Wie komme ich zu \x02dem Bahnhof?")
    'Wie komme ich zum Bahnhof?'
    """
    return _CONTRACTIBLE.sub(lambda found: _CONTRACTED[found[0]], text).replace(ARTICLE_MARK, "")


def _determiner(word: str, case: str, gender: str, plural: bool) -> str:
    if word == "der":
        return ARTICLE_MARK + _by_gender(_DEFINITE[case], gender, plural)
    if word == "ein" and plural:
        return ""
    endings = _DER_ENDINGS if word in DER_WORDS else _EIN_ENDINGS
    return word + _by_gender(endings[case], gender, plural)


def _english_article(word: str) -> str:
    return "an" if word[0].lower() in "aeiou" else "a"


def _english_plural(word: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", word):
        return word + "es"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + "s"


def _german_genitive(word: str, gender: str) -> str:
    if gender == "f":
        return word
    return word + ("es" if re.search(r"(s|ß|x|z|sch|tz)$", word) else "s")
