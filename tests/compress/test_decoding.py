"""The product's own encoder run and decoding loop, against transformers'."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress import decoding
from compress.audio import HOP_LENGTH, N_FRAMES, N_SAMPLES, SAMPLE_RATE, Samples
from compress.decoding import Decoding, Token
from compress.errors import AudioTooLong
from compress.prompt import END_OF_TURN, Prompt, translation
from compress.reading import read
from tests.compress.conftest import sound

# two audio tokens need seven mel frames: 70 ms, or 961 samples and more
SHORTEST = 6 * HOP_LENGTH + 1
MAX_NEW_TOKENS = 24


def encode(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, clips: Sequence[Samples]
) -> list[Tensor]:
    with torch.inference_mode():
        return decoding.encode(model, decoding.log_mel(processor, clips))


def padded_run(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, clip: Samples
) -> tuple[Tensor, int]:
    """Transformers' own run over the padded window: projected embeddings of one clip, and how many audio tokens."""
    inputs = processor(text=translation("de").text, audio=[clip], sampling_rate=SAMPLE_RATE, return_tensors="pt")
    n_tokens = int((inputs["input_ids"] == processor.audio_token_id).sum())
    embeddings: list[Tensor] = []
    hook = model.model.multi_modal_projector.register_forward_hook(lambda *call: embeddings.append(call[2]))
    with torch.inference_mode():
        model(**inputs)
    hook.remove()
    return embeddings[0].reshape(-1, embeddings[0].shape[-1])[:n_tokens], n_tokens


def run(decoder: Decoding, n_rows: int) -> list[list[int]]:
    ids: list[list[int]] = [[] for _ in range(n_rows)]
    while decoder.rows:
        for token in decoder.step():
            if token.id is not None:
                ids[token.row].append(token.id)
    return ids


def generated(
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    clips: Sequence[Samples],
    prompts: Sequence[Prompt],
) -> list[list[int]]:
    """What `generate` writes, greedily, up to the end of the turn."""
    inputs = processor(
        text=[prompt.text for prompt in prompts],
        audio=list(clips),
        sampling_rate=SAMPLE_RATE,
        return_tensors="pt",
        padding=True,
    )
    end = processor.tokenizer.convert_tokens_to_ids(END_OF_TURN)
    outputs = model.generate(  # type: ignore[misc]  # transformers' hints leave this class out
        **inputs,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    rows = [row[inputs["input_ids"].shape[1] :].tolist() for row in outputs]
    return [row[: row.index(end)] if end in row else row for row in rows]


# --- the encoder ------------------------------------------------------------------------------------------------


def test_audio_tokens_are_counted_as_the_processor_expands_them(processor: Qwen2AudioProcessor) -> None:
    for n_frames in (7, 8, 9, 10, 11, 50, 101, 1000, 2997, 2998, 2999, 3000):
        for n_samples in (n_frames * HOP_LENGTH, (n_frames - 1) * HOP_LENGTH + 1):
            clip = np.zeros(n_samples, np.float32)
            ids = processor(text=translation("de").text, audio=[clip], sampling_rate=SAMPLE_RATE)["input_ids"]
            assert decoding.n_audio_tokens(n_frames) == np.sum(np.array(ids) == processor.audio_token_id)


def test_audio_tokens_are_counted_as_the_model_counts_them(pocket: Qwen2AudioForConditionalGeneration) -> None:
    n_frames = torch.arange(7, N_FRAMES + 1)
    _, n_tokens = pocket.model.audio_tower._get_feat_extract_output_lengths(n_frames)
    assert [decoding.n_audio_tokens(n) for n in n_frames.tolist()] == n_tokens.tolist()


@pytest.mark.parametrize("n_samples", [SHORTEST, 1_600, 7_999, 8_000, 16_000, 16_001, 47_777, 479_999, N_SAMPLES])
def test_encoding_equals_the_padded_window(
    n_samples: int, pocket: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    clip = sound(30)[:n_samples]
    (found,) = encode(pocket, processor, [clip])
    wanted, n_tokens = padded_run(pocket, processor, clip)
    assert found.shape == (n_tokens, pocket.model.multi_modal_projector.linear.in_features)
    with torch.inference_mode():
        projected = pocket.model.multi_modal_projector(found)
    # layer norm makes the values about 1
    torch.testing.assert_close(projected, wanted, atol=2e-4, rtol=1e-3)


def test_a_batch_of_clips_equals_each_alone(
    pocket: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    clips = [sound(duration_s, seed) for seed, duration_s in enumerate([0.07, 0.5, 3.0, 1.234, 5.0])]
    for clip, row in zip(clips, encode(pocket, processor, clips), strict=True):
        (alone,) = encode(pocket, processor, [clip])
        torch.testing.assert_close(row, alone, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("n_samples", [0, 1, 100, 160, 900])
def test_a_clip_shorter_than_two_tokens_is_heard_as_followed_by_silence(
    n_samples: int, pocket: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    clip = sound(1)[:n_samples]
    (found,) = encode(pocket, processor, [clip])
    (wanted,) = encode(pocket, processor, [np.pad(clip, (0, SHORTEST - n_samples))])
    assert len(found) == 2
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, wanted)


def test_features_are_no_wider_than_needed(processor: Qwen2AudioProcessor) -> None:
    mel = decoding.log_mel(processor, [sound(1.0), sound(2.5)])
    assert mel.n_frames == [100, 250]
    assert mel.features.shape == (2, 80, 252)
    assert decoding.log_mel(processor, [sound(30)]).features.shape[-1] == N_FRAMES


def test_more_than_the_window_is_refused_with_both_numbers(processor: Qwen2AudioProcessor) -> None:
    with pytest.raises(AudioTooLong, match=r"30\.5 s exceeds .* 30 s"):
        decoding.log_mel(processor, [sound(1), np.zeros(N_SAMPLES + 8000, np.float32)])


# --- decoding ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["pocket", "miniature"])
def model(request: pytest.FixtureRequest, processor: Qwen2AudioProcessor) -> Qwen2AudioForConditionalGeneration:
    """Both a trained model, which ends its texts, and a random one, which repeats itself less."""
    found: Qwen2AudioForConditionalGeneration = request.getfixturevalue(request.param)
    return found


CLIPS = [sound(duration_s, seed) for seed, duration_s in enumerate([0.3, 2.0, 1.1, 4.0])]
# one instruction longer than the others, so that rows differ by more than their audio
LONG = Prompt(
    translation("de").before, "<|audio_eos|>\nPlease " + translation("de").after.removeprefix("<|audio_eos|>\n")
)
PROMPTS = [translation("de"), translation("zh"), LONG, translation("de")]


def test_one_clip_decodes_as_generate_does(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    for clip, prompt in zip(CLIPS, PROMPTS, strict=True):
        audio = encode(model, processor, [clip])
        assert run(Decoding(model, processor, audio, [prompt], MAX_NEW_TOKENS), 1) == generated(
            model, processor, [clip], [prompt]
        )


def test_a_left_padded_batch_decodes_as_generate_does(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    audio = encode(model, processor, CLIPS)
    found = run(Decoding(model, processor, audio, PROMPTS, MAX_NEW_TOKENS), len(CLIPS))
    assert found == generated(model, processor, CLIPS, PROMPTS)
    assert found == [
        run(Decoding(model, processor, [row], [prompt], MAX_NEW_TOKENS), 1)[0]
        for row, prompt in zip(audio, PROMPTS, strict=True)
    ]


@pytest.mark.parametrize("after", [0, 1, 5])
def test_dropping_rows_leaves_the_others_unchanged(
    after: int, model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    audio = encode(model, processor, CLIPS)
    wanted = run(Decoding(model, processor, audio, PROMPTS, MAX_NEW_TOKENS), len(CLIPS))
    decoder = Decoding(model, processor, audio, PROMPTS, MAX_NEW_TOKENS)
    early: list[Token] = [token for _ in range(after) for token in decoder.step()]
    decoder.drop({0, 3, 99})
    assert set(decoder.rows) <= {1, 2}
    late = run(decoder, len(CLIPS))
    for row in (1, 2):
        assert [token.id for token in early if token.row == row and token.id is not None] + late[row] == wanted[row]
    assert late[0] == late[3] == []


def test_dropping_every_row_ends_the_batch(
    miniature: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    decoder = Decoding(miniature, processor, encode(miniature, processor, CLIPS), PROMPTS, MAX_NEW_TOKENS)
    decoder.drop({0, 1, 2, 3})
    assert decoder.rows == []
    assert decoder.step() == []


@pytest.mark.parametrize("between", [0, 1, 4])
def test_rows_that_join_between_steps_decode_as_if_they_were_alone(
    between: int, model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    audio = encode(model, processor, CLIPS)
    wanted = generated(model, processor, CLIPS, PROMPTS)
    decoder = Decoding(model, processor, (), (), MAX_NEW_TOKENS)
    assert decoder.step() == []
    found: list[list[int]] = [[] for _ in CLIPS]

    def take(tokens: list[Token]) -> None:
        for token in tokens:
            if token.id is not None:
                found[token.row].append(token.id)

    for number, (clip, prompt) in enumerate(zip(audio, PROMPTS, strict=True)):
        assert decoder.join(read(model, processor, [clip], [prompt])) == [number]
        first = decoder.step()
        assert [token.row for token in first] == [number], "the first token is known, the others' next are not"
        take(first)
        for _ in range(between):
            take(decoder.step())
    for number, late in enumerate(run(decoder, len(CLIPS))):
        found[number] += late
    assert found == wanted


def test_rows_join_several_at_once_and_after_all_have_left(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    audio = encode(model, processor, CLIPS)
    wanted = generated(model, processor, CLIPS, PROMPTS)
    decoder = Decoding(model, processor, audio[:2], PROMPTS[:2], MAX_NEW_TOKENS)
    assert run(decoder, 2) == wanted[:2]
    assert decoder.join(read(model, processor, audio[2:], PROMPTS[2:])) == [2, 3]
    assert run(decoder, 4)[2:] == wanted[2:]


def test_a_row_may_have_a_lower_limit_of_its_own(
    miniature: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    audio = encode(miniature, processor, CLIPS)
    decoder = Decoding(miniature, processor, (), (), 6)
    for clip, prompt, limit in zip(audio, PROMPTS, (3, None, 1, 99), strict=True):
        decoder.join(read(miniature, processor, [clip], [prompt]), limit)
    assert [len(row) for row in run(decoder, 4)] == [3, 6, 1, 6]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_no_row_is_longer_than_the_limit(
    limit: int, miniature: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    decoder = Decoding(miniature, processor, encode(miniature, processor, CLIPS), PROMPTS, limit)
    steps = []
    while decoder.rows:
        steps.append(decoder.step())
    assert len(steps) <= limit
    last = [token for step in steps for token in step if token.last]
    assert sorted(token.row for token in last) == [0, 1, 2, 3]
    for token in last:
        assert token.id is None or token in steps[limit - 1]


def test_a_row_that_ends_says_so_and_leaves(
    miniature: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    end = processor.tokenizer.convert_tokens_to_ids(END_OF_TURN)
    decoder = Decoding(miniature, processor, encode(miniature, processor, CLIPS), PROMPTS, 5)
    # the only way to make a model without training end at a chosen moment
    decoder._rows[1].next = end
    tokens = decoder.step()
    assert tokens[1] == Token(row=1, id=None, last=True)
    assert set(decoder.rows) == {0, 2, 3}
    assert {token.row for token in decoder.step()} == {0, 2, 3}
