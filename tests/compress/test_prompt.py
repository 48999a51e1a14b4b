"""The prompt's wording, and that it is Qwen2-Audio's own chat format."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Qwen2AudioProcessor

from compress.errors import LanguageError
from compress.prompt import AUDIO_TOKEN, END_OF_TURN, LANGUAGES, SYSTEM, language, translation


@pytest.mark.parametrize(("code", "name"), [("de", "German"), ("zh", "Chinese")])
def test_translation_asks_in_the_papers_words(code: str, name: str) -> None:
    prompt = translation(code)
    assert "You are a professional translator." in prompt.before
    assert f"Translate the English speech into {name}:" in prompt.after
    assert language(code).name == name


def test_the_base_model_is_asked_without_a_chat() -> None:
    asked = f"<|audio_bos|>{AUDIO_TOKEN}<|audio_eos|>Translate the English speech into German:"
    assert translation("de", "base").text == asked


def test_everything_up_to_the_audio_is_the_same_for_all_languages() -> None:
    prompts = [*map(translation, LANGUAGES)]
    assert len({prompt.before for prompt in prompts}) == 1
    assert len({prompt.after for prompt in prompts}) == len(prompts)


def test_the_text_is_the_processors_own_chat_template(processor: Qwen2AudioProcessor) -> None:
    for code in LANGUAGES:
        conversation: Any = [
            {"role": "system", "content": SYSTEM},
            {
                "role": "user",
                "content": [
                    {"type": "audio", "audio_url": "clip.wav"},
                    {"type": "text", "text": f"Translate the English speech into {LANGUAGES[code].name}:"},
                ],
            },
        ]
        rendered = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        assert translation(code).text == rendered


def test_the_text_has_one_audio_placeholder_and_ends_where_the_answer_begins() -> None:
    text = translation("de").text
    assert text.count(AUDIO_TOKEN) == 1
    assert text.count(END_OF_TURN) == 2
    assert text.endswith("<|im_start|>assistant\n")


def test_special_tokens_are_single_tokens(processor: Qwen2AudioProcessor) -> None:
    for token in (AUDIO_TOKEN, END_OF_TURN, "<|im_start|>", "<|audio_bos|>", "<|audio_eos|>"):
        assert len(processor.tokenizer.encode(token, add_special_tokens=False)) == 1


def test_cutting_at_the_audio_does_not_change_the_tokens(processor: Qwen2AudioProcessor) -> None:
    encode = processor.tokenizer.encode
    for prompt in map(translation, LANGUAGES):
        before, audio, after = (
            encode(part, add_special_tokens=False) for part in (prompt.before, AUDIO_TOKEN, prompt.after)
        )
        assert [*before, *audio, *after] == encode(prompt.text, add_special_tokens=False)


@pytest.mark.parametrize("code", ["fr", "DE", "", "german"])
def test_another_language_is_refused_and_the_valid_ones_are_named(code: str) -> None:
    with pytest.raises(LanguageError, match=f"{code!r}; supported: de, zh"):
        translation(code)


def test_segments_are_joined_as_the_language_writes() -> None:
    assert language("de").joiner.join(["Guten Tag.", "Danke."]) == "Guten Tag. Danke."
    assert language("zh").joiner.join(["你好。", "谢谢。"]) == "你好。谢谢。"
