"""What is sent of a stretch of speech, and when.

`segment` translates a stretch once it has ended.  `agreement` also translates it while it grows, again and again, and
sends what two successive hypotheses have in common (LocalAgreement-2: Liu, Spanakis and Niehues, "Low-Latency
Sequence-to-Sequence Speech Recognition and Translation by Partial Hypothesis Selection", Interspeech 2020).  Nothing
that was sent is ever taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from compress.prompt import language

Policy = Literal["segment", "agreement"]
POLICIES: Final[tuple[Policy, ...]] = ("segment", "agreement")


@dataclass(frozen=True)
class Pace:
    """How often a stretch is translated while it grows.

    Attributes:
        again_s: seconds of new speech before the next translation; None waits for the stretch to end.
    """

    again_s: float | None

    @classmethod
    def of(cls, policy: Policy, again_s: float) -> Pace:
        """The pace of a policy; `again_s` matters to `agreement` alone."""
        return cls(again_s if policy == "agreement" else None)


class Committed:
    """What has been sent of one stretch's translation, and what the last hypothesis would have sent after it.

    Texts are compared by words, or by characters in languages that are written without spaces.
    """

    def __init__(self, to_language: str) -> None:
        """Nothing has been sent yet."""
        self._joiner = language(to_language).joiner
        self._sent = ""
        self._previous: list[str] = []  # the last hypothesis behind what was sent

    def agree(self, text: str, *, complete: bool) -> str:
        """Reads a translation of the stretch as far as it was heard; returns what may be sent now.

        Args:
            text: the translation from its beginning.
            complete: it has come to its end; otherwise more of it follows in another call.
        """
        rest = self._behind(self._units(text), complete=complete)
        if rest is None:
            return ""
        # The last unit may be part of a word; at the end it is what a model closes half a sentence with.
        n_agreed = _n_common(rest[:-1], self._previous)
        delta = self._joiner.join(rest[:n_agreed])
        self._previous = rest[n_agreed:] if complete else self._previous[n_agreed:]
        return self._send(self._joiner + delta if delta and self._sent else delta)

    def settle(self, text: str, *, complete: bool) -> str:
        """Reads a translation of the whole stretch; returns what may be sent now: what is new in it, word for word.

        One that contradicts what was sent waits until it is complete, and then goes on where the two part.
        """
        if text.startswith(self._sent):
            return self._send(text[len(self._sent) :])
        rest = self._behind(self._units(text), complete=complete) if complete else None
        return self._send(self._joiner + self._joiner.join(rest)) if rest else ""

    def _send(self, delta: str) -> str:
        self._sent += delta
        return delta

    def _behind(self, units: list[str], *, complete: bool) -> list[str] | None:
        """The units behind what was sent; None while that cannot be told."""
        sent = self._units(self._sent)
        if units[: len(sent)] == sent:
            return units[len(sent) :]
        return units[_n_aligned(sent, units) :] if complete else None

    def _units(self, text: str) -> list[str]:
        return text.split() if self._joiner else list(text)


def _n_common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many units two texts have in common before they part."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _n_aligned(sent: Sequence[str], units: Sequence[str]) -> int:
    """How many units say what was sent: the beginning that it differs least from, by edit distance.

    Of several, the longest: another word is likelier than a missing one.
    """
    distances = list(range(len(units) + 1))
    for i, one in enumerate(sent, 1):
        diagonal, distances[0] = distances[0], i
        for j, other in enumerate(units, 1):
            changed = diagonal + (one != other)
            diagonal, distances[j] = distances[j], min(changed, distances[j] + 1, distances[j - 1] + 1)
    return min(range(len(distances)), key=lambda j: (distances[j], -j))
