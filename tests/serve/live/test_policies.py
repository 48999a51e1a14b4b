"""What is sent of growing and of ended stretches: never taken back, whatever the hypotheses say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.prompt import LANGUAGES
from serve.live.policies import Committed, Pace

VOCABULARY = ["der", "die", "das", "Hund", "Hunde", "bellt", "laut", "."]
WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=8).map(" ".join)


def heard(committed: Committed, *hypotheses: str) -> list[str]:
    """What is sent after each hypothesis of a growing stretch."""
    return [committed.agree(text, complete=True) for text in hypotheses]


def test_words_are_sent_once_two_hypotheses_agree_and_another_follows() -> None:
    committed = Committed("de")
    assert heard(committed, "Vielen Dank.", "Vielen Dank für Ihre.", "Vielen Dank für die Einladung.") == [
        "",
        "Vielen",
        " Dank für",
    ]
    assert committed.settle("Vielen Dank für die Einladung.", complete=True) == " die Einladung."


def test_characters_are_in_chinese() -> None:
    committed = Committed("zh")
    assert heard(committed, "谢谢。", "谢谢你。", "谢谢你的。") == ["", "谢谢", "你"]
    assert committed.settle("谢谢你的邀请。", complete=True) == "的邀请。"


def test_a_hypothesis_is_compared_while_it_comes_in() -> None:
    committed = Committed("de")
    committed.agree("Wir sehen uns am Montag.", complete=True)
    so_far = ["W", "Wir", "Wir se", "Wir sehen uns", "Wir sehen uns d", "Wir sehen uns dann"]
    sent = [committed.agree(text, complete=False) for text in so_far]
    assert sent == ["", "", "Wir", " sehen", " uns", ""]
    assert committed.agree("Wir sehen uns dann.", complete=True) == ""
    assert committed.agree("Wir sehen uns dann. Bis", complete=False) == " dann."


def test_an_ended_stretch_is_sent_as_it_comes_in() -> None:
    committed = Committed("de")
    assert [committed.settle(text, complete=False) for text in ("Guten", "Guten T", "Guten Tag.")] == [
        "Guten",
        " T",
        "ag.",
    ]
    assert committed.settle("Guten Tag.", complete=True) == ""


@pytest.mark.parametrize(
    ("sent", "final", "rest"),
    [
        ("der Hund bellt", "der Hund bellt laut.", " laut."),
        ("der Hund bellt", "die Hunde bellen laut.", " laut."),  # other words, as many
        ("der Hund bellt", "heute bellt der Hund bellt laut.", " laut."),  # more before
        ("der Hund bellt", "Hund bellt laut.", " laut."),  # fewer before
        ("der Hund bellt", "der", ""),
        ("der Hund bellt", "", ""),
    ],
)
def test_a_contradiction_goes_on_behind_what_was_sent(sent: str, final: str, rest: str) -> None:
    committed = Committed("de")
    heard(committed, f"{sent} x", f"{sent} x")
    assert committed.settle(final, complete=True) == rest


def test_a_contradiction_waits_for_the_whole() -> None:
    committed = Committed("zh")
    heard(committed, "我们明天见。", "我们明天见。")
    assert committed.settle("咱", complete=False) == ""
    assert committed.settle("咱们明天再", complete=False) == ""
    assert committed.settle("咱们明天再见吧。", complete=True) == "吧。"


@pytest.mark.parametrize("code", LANGUAGES)
@given(hypotheses=st.lists(WORDS, min_size=1, max_size=5))
def test_how_a_hypothesis_comes_in_changes_nothing(code: str, hypotheses: list[str]) -> None:
    whole, pieces = Committed(code), Committed(code)
    text = ""
    *growing, final = [one.replace(" ", LANGUAGES[code].joiner) for one in hypotheses]
    for one in growing:
        delta = whole.agree(one, complete=True)
        chopped = [pieces.agree(one[:n], complete=False) for n in range(len(one))]
        assert "".join(chopped) + pieces.agree(one, complete=True) == delta
        text += delta
    delta = whole.settle(final, complete=True)
    chopped = [pieces.settle(final[:n], complete=False) for n in range(len(final))]
    assert "".join(chopped) + pieces.settle(final, complete=True) == delta
    if final.startswith(text):
        assert text + delta == final


def test_a_pace_is_for_agreement_alone() -> None:
    assert Pace.of("segment", 1.5).again_s is None
    assert Pace.of("agreement", 1.5).again_s == 1.5
