"""The loss of a batch, with the model inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from compress import decoding
from compress.training.collate import IGNORED

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration

# see `collate`: the number of rows that go through `lm_head` is rounded up for the same reason
_ROWS_STEP: Final = 64


class TranslationLoss(nn.Module):
    """A model with its loss inside, so that what wraps it for several GPUs wraps both."""

    def __init__(self, model: Qwen2AudioForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        features: Tensor | None = None,
        mel: Tensor | None = None,
        n_frames: list[int] | None = None,
    ) -> Tensor:
        """Summed cross-entropy of the labels; see `Collator` for the arguments.

        All positions' scores would be 85 % waste, and at (batch, length, 156032) the largest tensor by far.
        """
        model = self.model
        embeddings = model.get_input_embeddings()(input_ids)
        if mel is not None and n_frames is not None:
            features = torch.cat(decoding.encode(model, decoding.Mel(mel, n_frames)))
        if features is not None:
            audio = model.model.multi_modal_projector(features.to(embeddings.dtype))
            is_audio = (input_ids == model.config.audio_token_index)[..., None]
            embeddings = embeddings.masked_scatter(is_audio, audio.to(embeddings.dtype))
        hidden = model.model.language_model(
            inputs_embeds=embeddings, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        rows, columns = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        answers = labels[rows, columns + 1]
        # Never none at all: a batch that carries no loss still has to take part in every reduction of gradients.
        n_missing = -(-max(len(rows), 1) // _ROWS_STEP) * _ROWS_STEP - len(rows)
        rows, columns = (nn.functional.pad(index, (0, n_missing)) for index in (rows, columns))
        answers = nn.functional.pad(answers, (0, n_missing), value=IGNORED)
        scores = model.lm_head(hidden[rows, columns])
        return nn.functional.cross_entropy(scores.float(), answers, ignore_index=IGNORED, reduction="sum")
