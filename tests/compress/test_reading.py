from __future__ import annotations

import threading

import pytest
import torch
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress.decoding import Decoding
from compress.prompt import translation
from compress.reading import Prefix, read, read_prefix
from tests.compress.conftest import sound
from tests.compress.test_decoding import encode, run

CLIPS = [sound(duration_s, seed) for seed, duration_s in enumerate([0.3, 2.0, 1.1])]
PROMPTS = [translation("de"), translation("zh"), translation("de")]


def test_prompts_read_together_are_read_as_each_alone(
    pocket: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    audio = encode(pocket, processor, CLIPS)
    together = read(pocket, processor, audio, PROMPTS)
    for row, (clip, prompt) in enumerate(zip(audio, PROMPTS, strict=True)):
        alone = read(pocket, processor, [clip], [prompt])
        assert (alone.n_tokens, alone.next) == ([together.n_tokens[row]], [together.next[row]])
        for layer, wanted in zip(together.key_values, alone.key_values, strict=True):
            for found, one in zip(layer, wanted, strict=True):
                assert one.shape[2] == alone.n_tokens[0]
                torch.testing.assert_close(found[row : row + 1, :, : one.shape[2]], one, atol=2e-4, rtol=1e-3)


def test_a_prefix_that_was_read_before_changes_nothing(
    pocket: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    audio = encode(pocket, processor, CLIPS)
    prefix = read_prefix(pocket, processor, PROMPTS[0])
    assert prefix.n_tokens == len(processor.tokenizer(PROMPTS[0].before)["input_ids"])
    for chosen in (slice(None), slice(1)):
        plain = read(pocket, processor, audio[chosen], PROMPTS[chosen])
        behind = read(pocket, processor, audio[chosen], PROMPTS[chosen], prefix)
        assert (behind.n_tokens, behind.next) == (plain.n_tokens, plain.next)
        for layer, wanted in zip(behind.key_values, plain.key_values, strict=True):
            torch.testing.assert_close(layer, wanted, atol=2e-4, rtol=1e-3)
    assert prefix.key_values[0][0].shape[::2] == (1, prefix.n_tokens), "nobody has written into it"


def test_a_prefix_is_for_prompts_that_begin_with_it(
    pocket: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    audio = encode(pocket, processor, CLIPS[:1])
    with pytest.raises(AssertionError, match="begin with something else"):
        read(pocket, processor, audio, PROMPTS[:1], Prefix("Good morning.", (), 3))


def test_audio_and_prompt_are_counted(
    pocket: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    audio = encode(pocket, processor, CLIPS)
    for clip, prompt, n_tokens in zip(audio, PROMPTS, read(pocket, processor, audio, PROMPTS).n_tokens, strict=True):
        assert n_tokens == len(clip) + len(processor.tokenizer(prompt.text)["input_ids"]) - 1  # the audio's placeholder


def test_a_thread_may_read_while_another_decodes(
    pocket: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    audio = encode(pocket, processor, CLIPS)
    wanted = run(Decoding(pocket, processor, audio, PROMPTS, 24), 3)
    wanted_next = read(pocket, processor, audio, PROMPTS).next
    found: list[list[int]] = []
    reader = threading.Thread(
        target=lambda: found.extend(read(pocket, processor, audio, PROMPTS).next for _ in range(4))
    )
    decoder = Decoding(pocket, processor, audio, PROMPTS, 24)
    reader.start()
    assert run(decoder, 3) == wanted
    reader.join()
    assert found == [wanted_next] * 4
