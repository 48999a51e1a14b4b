"""Packed sequences compute what separate ones would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration

from compress.pocket.packing import BLANK, IGNORED, Example, PackedBatch, batches, losses, pack

CTC_LAYER = 2
BEFORE = [5, 6, 7]


def example(n_audio: int, branches: list[tuple[list[int], list[int]]], transcript: list[int], seed: int) -> Example:
    features = np.random.default_rng(seed).standard_normal((n_audio, 24)).astype(np.float16)
    return Example(features, BEFORE, branches, transcript)


EXAMPLES = [
    example(9, [([10, 11], [20, 21, 22, 2]), ([12, 13, 14], [30, 2]), ([15], [40, 41, 42, 43, 44, 2])], [50, 51], 0),
    example(17, [([10, 11], [23, 2]), ([12, 13, 14], [31, 32, 33, 2])], [52, 52, 53], 1),
    # nothing is said: the answer ends at once
    example(4, [([10, 11], [2]), ([12, 13, 14], [2])], [], 2),
]


def hidden_states(model: Qwen2AudioForConditionalGeneration, batch: PackedBatch) -> Tensor:
    """The decoder's last hidden states over a packed batch, shape (batch, length, hidden)."""
    found: list[Tensor] = []
    hook = model.model.language_model.norm.register_forward_hook(lambda *call: found.append(call[2]))
    with torch.no_grad():
        losses(model, batch, CTC_LAYER, torch.float32)
    hook.remove()
    # `losses` norms the middle layer too, for the alignment
    return next(states for states in found if states.shape[1] == batch.ids.shape[1])


def separate_run(model: Qwen2AudioForConditionalGeneration, one: Example, branch: int) -> tuple[Tensor, Tensor]:
    """Transformers' own causal run of one target: hidden states of its branch, summed loss of its answer."""
    ask, answer = one.branches[branch]
    decoder = model.model.language_model
    with torch.no_grad():
        audio = model.model.multi_modal_projector(torch.from_numpy(one.features).float())
        embed = model.get_input_embeddings()
        embeddings = torch.cat([embed(torch.tensor(one.before)), audio, embed(torch.tensor(ask + answer))])
        hidden: Tensor = decoder(inputs_embeds=embeddings[None], use_cache=False).last_hidden_state[0]
        predicting = hidden[-len(answer) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(model.lm_head(predicting), torch.tensor(answer), reduction="sum")
    return hidden[len(one.before) + len(one.features) :], loss


def test_every_branch_is_computed_as_in_a_sequence_of_its_own(miniature: Qwen2AudioForConditionalGeneration) -> None:
    batch = pack(EXAMPLES)
    packed = hidden_states(miniature, batch)
    for row, one in enumerate(EXAMPLES):
        for branch in range(len(one.branches)):
            alone, _ = separate_run(miniature, one, branch)
            torch.testing.assert_close(packed[row][batch.segments[row] == branch + 1], alone, atol=1e-4, rtol=1e-4)


def test_the_answer_loss_is_the_mean_over_separate_sequences(miniature: Qwen2AudioForConditionalGeneration) -> None:
    with torch.no_grad():
        found = losses(miniature, pack(EXAMPLES), CTC_LAYER, torch.float32)
    total = sum(float(separate_run(miniature, one, i)[1]) for one in EXAMPLES for i in range(len(one.branches)))
    n_tokens = sum(len(answer) for one in EXAMPLES for _, answer in one.branches)
    assert float(found.answers) == pytest.approx(total / n_tokens, rel=1e-4)


def test_the_alignment_loss_is_that_of_each_clip_alone(miniature: Qwen2AudioForConditionalGeneration) -> None:
    with torch.no_grad():
        together = losses(miniature, pack(EXAMPLES), CTC_LAYER, torch.float32)
        total = 0.0
        for one in EXAMPLES:
            embed = miniature.get_input_embeddings()
            audio = miniature.model.multi_modal_projector(torch.from_numpy(one.features).float())
            prefix = torch.cat([embed(torch.tensor(one.before)), audio])[None]
            states = miniature.model.language_model(inputs_embeds=prefix, output_hidden_states=True).hidden_states
            over_audio = miniature.model.language_model.norm(states[CTC_LAYER][0, len(one.before) :])
            scores = miniature.lm_head(over_audio).log_softmax(-1)
            total += float(
                torch.nn.functional.ctc_loss(
                    scores[:, None],
                    torch.tensor([one.transcript], dtype=torch.long),
                    torch.tensor([len(scores)]),
                    torch.tensor([len(one.transcript)]),
                    blank=BLANK,
                    reduction="sum",
                )
            )
    assert float(together.alignment) == pytest.approx(total / sum(len(one.transcript) for one in EXAMPLES), rel=1e-4)


def test_a_transcript_that_cannot_fit_its_audio_costs_nothing(miniature: Qwen2AudioForConditionalGeneration) -> None:
    crowded = replace(EXAMPLES[2], transcript=list(range(50, 60)))
    with torch.no_grad():
        assert float(losses(miniature, pack([crowded]), CTC_LAYER, torch.float32).alignment) == 0


def test_a_batch_in_which_nothing_is_said_has_no_alignment_to_learn(
    miniature: Qwen2AudioForConditionalGeneration,
) -> None:
    with torch.no_grad():
        found = losses(miniature, pack([EXAMPLES[2]]), CTC_LAYER, torch.float32)
    assert torch.isfinite(found.answers)
    assert torch.isfinite(found.alignment)


def test_neighbours_and_padding_are_never_seen(miniature: Qwen2AudioForConditionalGeneration) -> None:
    together = pack(EXAMPLES)
    wanted = hidden_states(miniature, together)
    changed = replace(
        EXAMPLES[0], branches=[EXAMPLES[0].branches[0], ([99, 98, 97], [96, 2]), *EXAMPLES[0].branches[2:]]
    )
    found = hidden_states(miniature, pack([changed, *EXAMPLES[1:]]))
    untouched = (together.segments != 2) & (together.segments >= 0)
    torch.testing.assert_close(found[0][untouched[0]], wanted[0][untouched[0]])
    torch.testing.assert_close(found[1:], wanted[1:])


def test_the_layout_of_a_batch() -> None:
    batch = pack(EXAMPLES)
    assert batch.ids.shape == batch.positions.shape == batch.segments.shape == batch.labels.shape
    assert batch.ids.shape[0] == 3
    assert batch.ids.shape[1] >= max(one.n_tokens for one in EXAMPLES)
    n_audio = sum(len(one.features) for one in EXAMPLES)
    wanted = np.concatenate([one.features for one in EXAMPLES])
    np.testing.assert_array_equal(batch.features[:n_audio].numpy(), wanted.astype(np.float32))
    assert not batch.features[n_audio:].any()
    assert batch.is_audio.sum(1).tolist() == [len(one.features) for one in EXAMPLES]
    assert batch.n_transcript.tolist() == [2, 3, 0]
    assert batch.transcripts.tolist() == [50, 51, 52, 52, 53]
    assert (batch.segments >= 0).sum(1).tolist() == [one.n_tokens for one in EXAMPLES]
    for row, one in enumerate(EXAMPLES):
        labels = batch.labels[row][batch.labels[row] != IGNORED]
        assert labels.tolist() == [token for _, answer in one.branches for token in answer]
        for segment in range(1, len(one.branches) + 1):
            positions = batch.positions[row][batch.segments[row] == segment]
            first = len(one.before) + len(one.features)
            assert positions.tolist() == list(range(first, first + len(positions)))


# --- batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_examples", [0, 1, 7, 2048, 5000])
def test_an_epoch_holds_every_example_once(n_examples: int) -> None:
    lengths = np.random.default_rng(1).integers(40, 400, n_examples).tolist()
    made = list(batches(lengths, 4096, seed=3))
    assert sorted(i for batch in made for i in batch) == list(range(n_examples))
    for batch in made:
        assert len(batch) * max(lengths[i] for i in batch) <= 4096


def test_an_example_longer_than_a_batch_is_a_batch() -> None:
    assert sorted(map(sorted, batches([10, 9000, 12], 100, seed=0))) == [[0, 2], [1]]


def test_batches_follow_the_seed_alone() -> None:
    lengths = np.random.default_rng(1).integers(40, 400, 3000).tolist()
    first, again, other = (list(batches(lengths, 2048, seed)) for seed in (5, 5, 6))
    assert first == again != other


def test_batches_hold_examples_of_similar_length() -> None:
    lengths = np.random.default_rng(1).integers(40, 400, 4096).tolist()
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches(lengths, 4096, 0))
    assert padded < 1.1 * sum(lengths)
