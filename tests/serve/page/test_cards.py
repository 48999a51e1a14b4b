from __future__ import annotations

from serve.client import ApiError
from serve.page.cards import empty_card, error_card, figures, stopped, text_card


def test_text_is_shown_as_text() -> None:
    card = text_card("<b>Guten</b> Tag", "de", running=False)
    assert "&lt;b&gt;Guten&lt;/b&gt; Tag" in card
    assert 'lang="de"' in card


def test_a_running_card_shows_where_the_text_grows_until_it_is_stopped() -> None:
    running = text_card("Guten", "de", running=True)
    assert "k-caret" in running
    assert "k-caret" not in text_card("Guten Tag", "de", running=False)
    halted = stopped(running)
    assert "k-caret" not in halted
    assert "Guten …" in halted
    assert "k-done" in halted
    assert "Stopped." in stopped(text_card("", "de", running=True))


def test_a_card_without_text_says_why() -> None:
    assert "Come in" in empty_card("Come in")
    assert "Listening" in text_card("", "de", running=True)
    assert "No speech was found" in text_card("", "de", running=False)


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
