from __future__ import annotations

from serve.demo_html import empty_card, error_card, figures, text_card


def test_text_is_shown_as_text() -> None:
    card = text_card("<b>Guten</b> Tag", "de", running=False)
    assert "&lt;b&gt;Guten&lt;/b&gt; Tag" in card
    assert 'lang="de"' in card


def test_a_running_card_shows_where_the_text_grows() -> None:
    assert "k-caret" in text_card("Guten", "de", running=True)
    assert "k-caret" not in text_card("Guten Tag", "de", running=False)


def test_a_card_without_text_says_why() -> None:
    assert "Upload a recording" in empty_card()
    assert "Listening" in text_card("", "de", running=True)
    assert "No speech was found" in text_card("", "de", running=False)


def test_errors_are_sentences() -> None:
    assert "<p>Not &lt;audio&gt;.</p>" in error_card("not <audio>")


def test_figures_have_units_and_dashes() -> None:
    panel = figures({"audio_s": 2.345, "time_to_first_text_s": None, "total_s": 0.5, "real_time_factor": 0.213})
    for number in ("2.3 s", "–", "0.50 s", "0.21"):
        assert f"<dd>{number}</dd>" in panel
