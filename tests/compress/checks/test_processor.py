"""A tokenizer or a feature extractor that does not fit the model is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import Qwen2AudioProcessor

from compress import doctor
from tests.compress.patients import (
    BOTH,
    Ailment,
    admit,
    configure,
    overwrite,
    rewritten,
)


def text_tokenizer(path: Path) -> None:
    with rewritten(path, "tokenizer.json") as content:
        content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] != "<|audio_bos|>"]


other_audio_token = configure(audio_token_index=4)


def grown_tokenizer(path: Path) -> None:
    with rewritten(path, "tokenizer.json") as content:
        content["added_tokens"].append({**content["added_tokens"][0], "id": 9000, "content": "<|new|>"})


broken_tokenizer = overwrite("tokenizer.json", b"[]")
other_mel_bands = configure("feature_extractor", "processor_config.json", feature_size=128)
silent_extractor = overwrite("processor_config.json", b"{}")


AILMENTS = [
    Ailment("plain", text_tokenizer, "tokenizer", r"has no token <\|audio_bos\|>", BOTH),
    Ailment(
        "plain", other_audio_token, "tokenizer", r"<\|AUDIO\|> is token 3 in tokenizer\.json and 4 in config", BOTH
    ),
    Ailment("plain", grown_tokenizer, "tokenizer", "goes up to token 9000, the embeddings up to 51", BOTH),
    Ailment("plain", broken_tokenizer, "tokenizer", "must hold a JSON object", BOTH),
    Ailment("plain", other_mel_bands, "feature extractor", "makes 128 mel bands, the audio tower hears 80", BOTH),
    Ailment("plain", silent_extractor, "feature extractor", "feature_size is missing", BOTH),
]


@pytest.mark.parametrize("ailment", AILMENTS, ids=str)
def test_an_ailment_is_found_by_its_check(ailment: Ailment, processor: Qwen2AudioProcessor, tmp_path: Path) -> None:
    ailment.assert_found(admit(ailment.kind, processor, tmp_path))


def test_what_no_loader_minds_is_no_ailment(processor: Qwen2AudioProcessor, tmp_path: Path) -> None:
    """Files of transformers 4: the extractor in a file of its own, the processor's without it, an odd note."""
    plain = admit("plain", processor, tmp_path)
    with rewritten(plain, "processor_config.json") as content:
        (plain / "preprocessor_config.json").write_text(json.dumps(content.pop("feature_extractor")))
    configure(torch_dtype="bfloat16")(plain)
    assert doctor.examine(plain).healthy
