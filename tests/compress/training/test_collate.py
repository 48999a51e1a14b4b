"""Batches against the processor's own chat template, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2AudioProcessor

from compress import decoding
from compress.audio import SAMPLE_RATE, Samples
from compress.clips import Clips
from compress.prompt import SYSTEM, language, translation
from compress.training.collate import IGNORED, Collator, Examples, Item, TrainingSet
from tests.compress.conftest import sound
from tests.compress.toy_training import Sound, examples

ASSISTANT = "<|im_start|>assistant"
BASE = translation("de", "base")
TARGETS = {
    "de": ["Hallo Welt!", "„Wo ist er?“, fragte sie – um 9.30 Uhr.", "(leise) ja", "3 Äpfel"],
    "zh": ["你好，世界！", "请问，最近的火车站在哪里？", "（安静）好", "3个苹果"],
}
CLIPS = [sound(duration_s, seed) for seed, duration_s in enumerate([0.4, 2.3, 1.0, 0.1])]


def items(code: str) -> list[Item]:
    return [Item(clip, target) for clip, target in zip(CLIPS, TARGETS[code], strict=True)]


def rendered(processor: Qwen2AudioProcessor, code: str, target: str) -> str:
    """The whole conversation, as transformers writes it."""
    conversation: Any = [
        {"role": "system", "content": SYSTEM},
        {
            "role": "user",
            "content": [
                {"type": "audio", "audio_url": "clip.wav"},
                {"type": "text", "text": f"Translate the English speech into {language(code).name}:"},
            ],
        },
        {"role": "assistant", "content": target},
    ]
    return str(processor.apply_chat_template(conversation, tokenize=False))


def tokenised(processor: Qwen2AudioProcessor, text: str, clip: Samples) -> list[int]:
    """Text with its one audio placeholder expanded, as the processor does it."""
    made = processor(text=text, audio=[clip], sampling_rate=SAMPLE_RATE, return_tensors="pt")
    return list(made["input_ids"][0].tolist())


@pytest.mark.parametrize("code", ["de", "zh"])
def test_ids_and_masked_labels_are_the_chat_templates(code: str, processor: Qwen2AudioProcessor) -> None:
    batch = Collator(processor, translation(code))(items(code))
    for row, (clip, target) in enumerate(zip(CLIPS, TARGETS[code], strict=True)):
        text = rendered(processor, code, target)
        ids = tokenised(processor, text, clip)
        masked = tokenised(processor, text[: text.rindex(ASSISTANT) + len(ASSISTANT)], clip)
        n = len(ids)
        assert ids[: len(masked)] == masked
        assert batch["input_ids"][row, :n].tolist() == ids
        assert batch["labels"][row, :n].tolist() == [IGNORED] * len(masked) + ids[len(masked) :]
        assert batch["attention_mask"][row].tolist() == [1] * n + [0] * (batch["input_ids"].shape[1] - n)
        assert set(batch["input_ids"][row, n:].tolist()) <= {processor.tokenizer.pad_token_id}
        assert set(batch["labels"][row, n:].tolist()) <= {IGNORED}


def answer(processor: Qwen2AudioProcessor, labels: torch.Tensor) -> str:
    return str(processor.tokenizer.decode(labels[labels != IGNORED].tolist()))


def test_the_newline_the_target_and_the_end_of_turn_carry_loss(processor: Qwen2AudioProcessor) -> None:
    batch = Collator(processor, translation("de"))(items("de"))
    for labels, target in zip(batch["labels"], TARGETS["de"], strict=True):
        assert answer(processor, labels) == f"\n{target}<|im_end|>\n"


def test_white_space_around_a_target_is_not_learnt(processor: Qwen2AudioProcessor) -> None:
    collate = Collator(processor, translation("de"))
    plain, padded = (collate([Item(CLIPS[0], target)])["labels"] for target in ("Ja.", " \nJa.\n"))
    assert torch.equal(plain, padded)


@pytest.mark.parametrize("code", ["de", "zh"])
def test_the_base_models_prompt_is_masked_whole(code: str, processor: Qwen2AudioProcessor) -> None:
    prompt = translation(code, "base")
    batch = Collator(processor, prompt)(items(code))
    for row, (clip, target) in enumerate(zip(CLIPS, TARGETS[code], strict=True)):
        assert answer(processor, batch["labels"][row]) == f"{target}<|im_end|>\n"
        # the prompt's tokens are those that the model is asked with, whatever the target begins with
        asked = tokenised(processor, prompt.text, clip)
        assert batch["input_ids"][row, : len(asked)].tolist() == asked
        assert set(batch["labels"][row, : len(asked)].tolist()) == {IGNORED}


def test_samples_become_the_mel_frames_that_hold_audio(processor: Qwen2AudioProcessor) -> None:
    batch = Collator(processor, translation("de"))(items("de"))
    mel = decoding.log_mel(processor, CLIPS)
    torch.testing.assert_close(batch["mel"], mel.features, rtol=0, atol=0)
    assert batch["n_frames"] == mel.n_frames
    assert "features" not in batch


def test_encoder_output_goes_in_as_it_is(processor: Qwen2AudioProcessor) -> None:
    rng = np.random.default_rng(0)
    encoded = [rng.standard_normal((n, 24)).astype(np.float16) for n in (7, 2, 11)]
    batch = Collator(processor, translation("de"))([Item(clip, "Ja.") for clip in encoded])
    assert torch.equal(batch["features"], torch.from_numpy(np.concatenate(encoded)))
    assert (batch["input_ids"] == processor.audio_token_id).sum(1).tolist() == [7, 2, 11]
    assert "mel" not in batch


def test_lengths_are_rounded_up(processor: Qwen2AudioProcessor) -> None:
    collate = Collator(processor, translation("de"))
    widths = {collate([Item(clip, "Ja.")])["input_ids"].shape[1] for clip in CLIPS}
    assert {width % 32 for width in widths} == {0}


def test_an_example_that_fills_a_place_carries_no_loss(processor: Qwen2AudioProcessor) -> None:
    collate = Collator(processor, translation("de"))
    item = items("de")[0]
    batch, filled = collate([item]), collate([replace(item, carries_loss=False)])
    assert torch.equal(batch["input_ids"], filled["input_ids"])
    assert set(filled["labels"].flatten().tolist()) == {IGNORED}


# --- examples ---------------------------------------------------------------------------------------------------


def prepared(directory: Path, n: int) -> Examples:
    listed = examples(n)
    clips = Clips(directory)
    for example in listed:
        clips._write(example.audio, example.audio.load())
    return Examples(listed, clips)


def test_an_example_is_asked_for_by_number_or_without_its_loss(tmp_path: Path) -> None:
    listed = prepared(tmp_path, 4)
    assert len(listed) == 4
    for number in range(4):
        item, filler = listed[number], listed[-1 - number]
        assert item.target == filler.target == listed.examples[number].target
        np.testing.assert_array_equal(item.clip, listed.examples[number].audio.load())
        np.testing.assert_array_equal(item.clip, filler.clip)
        assert item.carries_loss
        assert not filler.carries_loss


def test_lengths_are_near_enough_to_sort_by(processor: Qwen2AudioProcessor, tmp_path: Path) -> None:
    listed = prepared(tmp_path, 10)
    batch = Collator(processor, translation("de"))([listed[i] for i in range(10)])
    n_tokens = batch["attention_mask"].sum(1).numpy()
    assert np.corrcoef(listed.lengths(), n_tokens)[0, 1] > 0.9


def test_the_fingerprint_tells_training_sets_apart(processor: Qwen2AudioProcessor, tmp_path: Path) -> None:
    def fingerprint(listed: Sequence[Any], prompt: Any = BASE) -> str:
        return TrainingSet(listed, processor, prompt, tmp_path).fingerprint()

    listed = examples(3)
    first, *rest = listed
    others = [
        fingerprint(changed)
        for changed in (
            rest,
            [*rest, first],
            [first, first, *rest],
            [replace(first, id="another"), *rest],
            [replace(first, target="Anders."), *rest],
            [replace(first, audio=Sound(99)), *rest],
        )
    ]
    others.append(fingerprint(listed, translation("de")))
    assert fingerprint(examples(3)) == fingerprint(listed)
    assert len({fingerprint(listed), *others}) == 8
