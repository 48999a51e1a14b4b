"""The loss and its gradients against transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress import decoding
from compress.audio import SAMPLE_RATE
from compress.model import freeze
from compress.prompt import translation
from compress.training.collate import IGNORED, Collator, Item
from compress.training.loss import TranslationLoss
from tests.compress.conftest import sound
from tests.compress.toy_training import TARGETS

CLIPS = [sound(duration_s, seed) for seed, duration_s in enumerate([0.4, 1.7, 1.0])]


@pytest.fixture
def batch(processor: Qwen2AudioProcessor) -> dict[str, Any]:
    items = [Item(clip, target) for clip, target in zip(CLIPS, TARGETS, strict=False)]
    return Collator(processor, translation("de"))(items)


@pytest.fixture
def model(miniature: Qwen2AudioForConditionalGeneration) -> Qwen2AudioForConditionalGeneration:
    freeze(miniature, [])
    return miniature


def transformers_loss(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, batch: dict[str, Any]
) -> Tensor:
    """Mean loss of transformers' forward pass over padded 30 s windows, all positions through `lm_head`."""
    audio = processor(
        text=[translation("de").text] * len(CLIPS),
        audio=CLIPS,
        sampling_rate=SAMPLE_RATE,
        return_tensors="pt",
        padding=True,
    )
    loss: Tensor = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        labels=batch["labels"],
        input_features=audio["input_features"],
        feature_attention_mask=audio["feature_attention_mask"],
    ).loss
    return loss


def mean(total: Tensor, batch: dict[str, Any]) -> Tensor:
    n_tokens: Tensor = (batch["labels"] != IGNORED).sum()
    return total / n_tokens


def test_the_gathered_loss_is_transformers_own(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, batch: dict[str, Any]
) -> None:
    with torch.inference_mode():
        found = mean(TranslationLoss(model)(**batch), batch)
        wanted = transformers_loss(model, processor, batch)
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)


def test_gradients_are_transformers_own_down_to_the_first_convolution(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, batch: dict[str, Any]
) -> None:
    mean(TranslationLoss(model)(**batch), batch).backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    model.zero_grad()
    transformers_loss(model, processor, batch).backward()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None, name
            scale = float(weight.grad.abs().max())
            torch.testing.assert_close(found[name], weight.grad, rtol=1e-2, atol=1e-3 * scale, msg=name)
    assert float(model.model.audio_tower.conv1.weight.grad.abs().max()) > 0


def test_only_rows_that_carry_loss_go_through_the_head(
    model: Qwen2AudioForConditionalGeneration, batch: dict[str, Any]
) -> None:
    rows: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda module, given, made: rows.append(given[0].shape[0]))
    with torch.inference_mode():
        TranslationLoss(model)(**batch)
    hook.remove()
    n_labels = int((batch["labels"] != IGNORED).sum())
    assert len(rows) == 1
    assert n_labels <= rows[0] < n_labels + 64
    assert rows[0] < batch["labels"].numel() / 2


def test_the_encoders_output_stands_for_the_sound(
    model: Qwen2AudioForConditionalGeneration, batch: dict[str, Any]
) -> None:
    with torch.inference_mode():
        wanted = TranslationLoss(model)(**batch)
        features = torch.cat(decoding.encode(model, decoding.Mel(batch["mel"], batch["n_frames"])))
        given = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        found = TranslationLoss(model)(**given, features=features)
        silent = TranslationLoss(model)(**given, features=torch.zeros_like(features))
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    assert abs(float(silent) - float(wanted)) > 1e-3


def test_a_batch_that_carries_no_loss_takes_part_with_zero_gradients(
    model: Qwen2AudioForConditionalGeneration, batch: dict[str, Any]
) -> None:
    loss = TranslationLoss(model)(**(batch | {"labels": torch.full_like(batch["labels"], IGNORED)}))
    assert float(loss.detach()) == 0
    loss.backward()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None, name
            assert not weight.grad.any(), name
