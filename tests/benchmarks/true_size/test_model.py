"""Random models in all formats: what they hold, and that they are the same model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import Qwen2AudioProcessor

from benchmarks.true_size import int4
from benchmarks.true_size import model as true_size
from benchmarks.true_size.bench import SIZES
from benchmarks.true_size.model import FORMATS, build, n_weight_bytes
from benchmarks.true_size.parts import noise
from compress.decoding import encode, end_tokens, log_mel
from compress.prompt import translation
from compress.reading import embed_prompt
from compress.weights.architectures import QWEN2_AUDIO_7B
from compress.weights.size import Layout, plan_size

ARCHITECTURE = replace(SIZES["small"].architecture, n_layers=2)


@pytest.fixture(scope="module")
def processor() -> Qwen2AudioProcessor:
    return true_size.processor(ARCHITECTURE)


def scores(form: str, processor: Qwen2AudioProcessor) -> tuple[Tensor, int]:
    """What a format makes of the same sound, shape (tokens, vocabulary), and its bytes."""
    if reason := true_size.problem(form, "cpu"):
        pytest.skip(reason)
    model = build(ARCHITECTURE, form, "cpu", processor)
    with torch.inference_mode():
        (audio,) = encode(model, log_mel(processor, [noise(1.0)]))
        prompt = embed_prompt(model, processor.tokenizer, audio, translation("de"))
        hidden = model.model.language_model(inputs_embeds=prompt[None]).last_hidden_state
        return model.lm_head(hidden)[0].float(), n_weight_bytes([model])


@pytest.fixture(scope="module")
def plain(processor: Qwen2AudioProcessor) -> tuple[Tensor, int]:
    return scores("bf16", processor)


def test_a_plain_model_is_as_big_as_planned(plain: tuple[Tensor, int]) -> None:
    # and the rotary embedding's frequencies, which no checkpoint stores
    frequencies = 2 * 4 * ARCHITECTURE.head_width // 2
    assert plain[1] == plan_size(ARCHITECTURE, Layout.BF16).tensor_bytes + frequencies


@pytest.mark.parametrize(("form", "similarity"), [("nf4", 0.95), ("w4a16", 0.95), ("int8", 0.99), ("nf4+lora", 0.95)])
def test_a_format_is_smaller_and_says_nearly_the_same(
    form: str, similarity: float, plain: tuple[Tensor, int], processor: Qwen2AudioProcessor
) -> None:
    found, n_bytes = scores(form, processor)
    known = len(processor.tokenizer)
    assert float(cosine_similarity(found[:, :known], plain[0][:, :known]).min()) > similarity
    assert n_bytes < plain[1]


def test_nf4_holds_what_a_checkpoint_stores(processor: Qwen2AudioProcessor) -> None:
    _, n_bytes = scores("nf4", processor)
    planned = plan_size(ARCHITECTURE, Layout.COMPACT)
    stored = planned.tensor_bytes - planned.groups["adapter"].n_bytes
    # a checkpoint has a name for every format, and a table of levels for every weight
    assert n_bytes == pytest.approx(stored, rel=0.01)


def test_the_adapter_is_beside_it(processor: Qwen2AudioProcessor) -> None:
    (_, with_adapter), (_, without) = scores("nf4+lora", processor), scores("nf4", processor)
    adapter = plan_size(ARCHITECTURE, Layout.COMPACT).groups["adapter"].n_bytes
    assert with_adapter - without == adapter


@pytest.mark.parametrize("form", ["bf16", "nf4"])
def test_no_translation_ends(form: str, processor: Qwen2AudioProcessor) -> None:
    found, _ = scores(form, processor)
    ended = sorted(end_tokens(build(ARCHITECTURE, "bf16", "cpu", processor), processor.tokenizer))
    assert not found[:, ended].any()
    assert not found[:, len(processor.tokenizer) :].any()
    assert bool((found.max(-1).values > 0).all())


def test_the_true_architecture_is_the_true_model() -> None:
    true = SIZES["full"].architecture
    assert true == QWEN2_AUDIO_7B
    assert sum(math.prod(shape) for shape in true.shapes().values()) == 8_397_094_912


def test_formats_have_reasons_or_none() -> None:
    assert all(isinstance(true_size.problem(form, "cpu"), str) for form in FORMATS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpus_kernel_multiplies_what_its_weights_are() -> None:
    assert not int4.problem("cuda")
