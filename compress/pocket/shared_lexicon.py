"""Categories that every grammar file may use: hand-written ones, and names from Unicode's CLDR."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from babel import Locale

from compress.pocket.lexicon import Entry, Phrase, parse_entry

SHARED_FILE: Final = Path(__file__).parent / "frames" / "shared.yaml"

# Countries whose German name takes no article, so that "in {country}", "nach {country}" and
# "aus {country}" are right for all of them.
_COUNTRIES: Final = "DE AT FR IT ES PT PL DK SE NO FI GR HU IE BE CN JP IN BR CA AU MX EG KE GH TH VN ID CL PE NZ KR"
_LANGUAGE_CODES: Final = (
    "en de zh fr it es pt pl da sv no fi el hu ga nl ja hi ko ru tr ar fa he th vi id uk cs ro sw yo ta"
)


def read_yaml(path: Path) -> Any:
    """What a file holds, read by the C library that PyYAML's wheels have, as reading it in Python takes seconds."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), loader)


@cache
def load() -> dict[str, list[Entry]]:
    """Shared categories by name: those of `frames/shared.yaml`, and weekday, month, country, language."""
    lexicon: dict[str, list[Entry]] = {}
    content = read_yaml(SHARED_FILE)
    for category, body in content["lexicon"].items():
        ((kind, lines),) = body.items()
        lexicon[category] = [parse_entry(kind, line) for line in lines]
    en, de, zh = (Locale(code) for code in ("en", "de", "zh"))
    wide = [locale.days["format"]["wide"] for locale in (en, de, zh)]
    lexicon["weekday"] = [_phrase(*(days[i] for days in wide)) for i in range(7)]
    wide = [locale.months["format"]["wide"] for locale in (en, de, zh)]
    lexicon["month"] = [_phrase(*(months[i] for months in wide)) for i in range(1, 13)]
    lexicon["country"] = [
        _phrase(*(locale.territories[code] for locale in (en, de, zh))) for code in _COUNTRIES.split()
    ]
    lexicon["language"] = [
        _phrase(*(locale.languages[code] for locale in (en, de, zh))) for code in _LANGUAGE_CODES.split()
    ]
    return lexicon


def _phrase(en: str, de: str, zh: str) -> Phrase:
    return Phrase((en,), (de,), (zh,))
