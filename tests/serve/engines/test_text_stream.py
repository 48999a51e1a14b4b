from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from compress.checkpoint import POCKET, Checkpoint
from serve.engines.text_stream import TextStream

TOKENIZER: PreTrainedTokenizerBase = Checkpoint.open(POCKET).load_processor().tokenizer


def stream(ids: list[int]) -> list[str]:
    text = TextStream(TOKENIZER)
    return [text.push(i) for i in ids]


@pytest.mark.parametrize("text", ["Schöne Grüße aus Köln!", "今天天气很好，我们去公园吧。", "龘靐 🚆 zum Gleis 7½"])
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(stream(TOKENIZER.encode(text))) == text


def test_a_character_is_shown_once_it_is_whole() -> None:
    ids = TOKENIZER.encode("龘", add_special_tokens=False)
    assert len(ids) > 1, "a character that the vocabulary spells in bytes"
    assert stream(ids) == [""] * (len(ids) - 1) + ["龘"]


def test_bytes_that_never_become_a_character_are_left_out() -> None:
    start = TOKENIZER.encode("龘", add_special_tokens=False)[:-1]
    assert "".join(stream(TOKENIZER.encode("gut") + start + TOKENIZER.encode(" so"))) == "gut so"


def test_space_around_the_text_and_special_tokens_are_not_shown() -> None:
    ids = TOKENIZER.encode("\n  eins zwei \n<|im_end|>")
    assert "".join(stream(ids)) == "eins zwei"


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40))
def test_any_tokens_make_valid_text(ids: list[int]) -> None:
    text = TextStream(TOKENIZER)
    pieces = [text.push(i) for i in ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == text.text == text.text.strip()
    text.text.encode("utf-8")
