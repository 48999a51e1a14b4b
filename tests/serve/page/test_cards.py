from __future__ import annotations

from serve.client import ApiError, Ended
from serve.page.cards import empty_card, error_card, figures, run_card
from serve.page.runs import Run


def ended(text: str) -> Run:
    return Run(text, Ended(text, (), {}))


def test_text_is_shown_as_text() -> None:
    card = run_card(ended("<b>Guten</b> Tag"), "de")
    assert "&lt;b&gt;Guten&lt;/b&gt; Tag</p>" in card
    assert 'lang="de"' in card


def test_a_card_tells_whether_its_text_still_grows() -> None:
    for run, kind, grows in (
        (Run("Guten"), "k-running", True),
        (ended("Guten Tag"), "k-done", False),
        (Run("Guten", stopped=True), "k-done", False),
    ):
        card = run_card(run, "de")
        assert kind in card
        assert ("k-caret" in card) == grows
    assert "Guten …</p>" in run_card(Run("Guten", stopped=True), "de")


def test_a_card_without_text_says_why() -> None:
    assert "Come in" in empty_card("Come in")
    assert "Listening" in run_card(Run(), "de")
    assert "No speech was found" in run_card(ended(""), "de")
    assert "Stopped" in run_card(Run(stopped=True), "de")
    assert "No &lt;speech&gt;." in run_card(Run("Guten", error=ApiError(500, "no <speech>")), "de")


def test_errors_are_sentences() -> None:
    assert "<h2>That did not work</h2><p>Not &lt;audio&gt;.</p>" in error_card(ApiError(415, "not <audio>"))


def test_a_busy_server_is_no_failure() -> None:
    busy = ApiError(429, "all places are taken", retry_after_s=2.5)
    assert busy.wait_s == 3
    assert "<h2>Busy: try again in 3 s</h2><p>All places are taken.</p>" in error_card(busy, busy.wait_s)
    assert "<h2>You can try again now</h2>" in error_card(busy)


def test_figures_have_units_and_dashes() -> None:
    timings = {"audio_s": 2.345, "time_to_first_text_s": None, "total_s": 0.5, "real_time_factor": 0.213}
    panel = figures(timings)
    for number in ("2.3 s", "–", "0.50 s", "0.21"):
        assert f"<dd>{number}</dd>" in panel
    assert "2.3 s" not in figures(timings, with_audio=False)
    assert "<dd>61:00 min</dd>" in figures({"audio_s": 3659.6})
