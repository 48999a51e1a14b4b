"""Missing, unsafe, unreadable, misnamed and misshapen files and tensors are found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import Qwen2AudioProcessor

from compress.weights.key_layout import memory_name
from tests.compress.patients import (
    ADAPTER,
    BOTH,
    Ailment,
    admit,
    configure,
    delete,
    lose,
    overwrite,
    rename,
    replace,
)

pickle = overwrite("pytorch_model.bin")
adapter_pickle = overwrite("adapter/adapter_model.bin")


def adapter_beside_the_weights(path: Path) -> None:
    shutil.copy(path / ADAPTER, path)


broken_config = overwrite("config.json", b"{")
other_model = configure(model_type="llama")


def cut_short(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def stale_shard(path: Path) -> None:
    shutil.copy(path / "model.safetensors", path / "model-00001-of-00001.safetensors")
    (path / "model.safetensors.index.json").write_text("{}")


def no_index(path: Path) -> None:
    held = list(load_file(path / "model.safetensors").items())
    (path / "model.safetensors").unlink()
    half = len(held) // 2
    for number, part in enumerate((held[:half], held[half:]), 1):
        save_file(dict(part), path / f"model-0000{number}-of-00002.safetensors")


doubled = replace("language_model.model.", "language_model.model.model.")
as_in_memory = rename(memory_name)

too_many_layers = configure("text_config", num_hidden_layers=2, layer_types=["full_attention"] * 2)
too_few_layers = lose(".layers.2.")
too_few_tower_layers = configure("audio_config", encoder_layers=2)
numbered_as_before_pruning = replace("model.layers.2.", "model.layers.7.")
uncut_layer_types = configure("text_config", layer_types=["full_attention"] * 4)

lost_tensor = lose("language_model.model.norm.weight")
strange_tensor = replace("conv1.bias", "conv1.shift")
other_vocabulary = configure("text_config", vocab_size=6000)


AILMENTS = [
    Ailment("plain", delete("tokenizer.json"), "files", r"^tokenizer\.json is missing$", BOTH),
    Ailment("plain", delete("processor_config.json"), "files", r"^processor_config\.json is missing$", BOTH),
    Ailment("lora", delete("adapter/adapter_config.json"), "files", r"^adapter/adapter_config\.json is missing$", BOTH),
    Ailment("lora", adapter_beside_the_weights, "files", "lies beside the weights", BOTH),
    Ailment("plain", pickle, "safetensors only", r"^pytorch_model\.bin can run code", BOTH),
    Ailment("lora", adapter_pickle, "safetensors only", r"^adapter/adapter_model\.bin can run code", BOTH),
    Ailment("plain", broken_config, "configuration", "is not valid JSON", BOTH),
    Ailment("plain", other_model, "configuration", "must configure model_type qwen2_audio, found llama", BOTH),
    Ailment("plain", delete("model.safetensors"), "weights", r"there are no \*\.safetensors weights", BOTH),
    Ailment("plain", cut_short, "weights", "is no readable safetensors file", BOTH),
    Ailment("plain", stale_shard, "weights", r"is stored twice, the second time in model\.safetensors", BOTH),
    Ailment("plain", no_index, "weights", r"2 files of weights, and no model\.safetensors\.index\.json", BOTH),
    Ailment("plain", doubled, "key layout", r"language_model\.model\.model\..* are not called as on the hub", ()),
    Ailment("plain", as_in_memory, "key layout", "are not called as on the hub", ()),
    Ailment("nf4", doubled, "key layout", "are not called as on the hub", ()),
    Ailment("plain", too_many_layers, "layers", r"hold 3 layers of language_model\.model, and .* is 2", BOTH),
    Ailment("plain", too_few_layers, "layers", r"hold 2 layers of language_model\.model, and .* is 3", BOTH),
    Ailment(
        "plain", too_few_tower_layers, "layers", r"hold 1 layers of audio_tower, and audio_config\.encoder_layers", BOTH
    ),
    Ailment("plain", numbered_as_before_pruning, "layers", "not numbered 0 to 2: there is no 2", BOTH),
    Ailment("nf4", numbered_as_before_pruning, "layers", "not numbered 0 to 2: there is no 2", BOTH),
    Ailment("plain", uncut_layer_types, "layer types", "has 4 entries for 3 layers", BOTH),
    Ailment("plain", lost_tensor, "tensors", r"^language_model\.model\.norm\.weight is missing$", BOTH),
    Ailment("plain", strange_tensor, "tensors", r"conv1\.bias is missing, and 1 more like it", BOTH),
    Ailment("plain", other_vocabulary, "tensors", r"embed_tokens\.weight has shape .* asks for \(6000, 64\)", BOTH),
]


@pytest.mark.parametrize("ailment", AILMENTS, ids=str)
def test_an_ailment_is_found_by_its_check(ailment: Ailment, processor: Qwen2AudioProcessor, tmp_path: Path) -> None:
    ailment.assert_found(admit(ailment.kind, processor, tmp_path))
