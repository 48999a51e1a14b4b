"""Layers are taken out as if they had been skipped, and what is written is read back the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from compress import model as parts
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import RecipeError
from compress.prompt import translation
from compress.weights.architectures import Architecture
from tests.compress.conftest import build, sound

N_DECODER, N_TOWER = 5, 3


@pytest.fixture
def model(processor: Qwen2AudioProcessor) -> Qwen2AudioForConditionalGeneration:
    """Enough layers to take some out, and random weights."""
    made = build(processor, n_layers=N_DECODER, n_tower_layers=N_TOWER, seed=1)
    for weight in made.parameters():
        weight.data *= 3  # so that every layer matters
    return made


def inputs(processor: Qwen2AudioProcessor) -> Any:
    return processor(text=translation("de").text, audio=[sound(0.6)], sampling_rate=16_000, return_tensors="pt")


def logits(model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(**inputs(processor), use_cache=False).logits
    return found


def generated(model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor) -> list[int]:
    """Eight tokens with the cache."""
    given = inputs(processor)
    ids = model.generate(  # type: ignore[misc]  # transformers' hints leave this class out
        **given, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return list(ids[0, given["input_ids"].shape[1] :].tolist())


def generated_without_cache(model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor) -> list[int]:
    """Eight tokens, each from a run over everything before it."""
    given = dict(inputs(processor))
    made = []
    with torch.inference_mode():
        for _ in range(8):
            made.append(int(model(**given, use_cache=False).logits[0, -1].argmax()))
            given["input_ids"] = torch.cat([given["input_ids"], torch.tensor([made[-1:]])], dim=1)
            given["attention_mask"] = torch.ones_like(given["input_ids"])
    return made


@contextmanager
def skipped(layers: torch.nn.ModuleList, indices: set[int]) -> Iterator[None]:
    """Has layers hand on what they are given: what removing them has to amount to."""
    hooks = [layers[i].register_forward_hook(lambda module, given, made: given[0]) for i in indices]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def shapes_on_disk(directory: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(directory / "model.safetensors", "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping


# --- layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("removed", [{0}, {2}, {4}, {1, 3}, {0, 1, 2, 3}])
def test_removing_decoder_layers_is_skipping_them(
    removed: set[int], model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    whole = logits(model, processor)
    with skipped(parts.decoder_layers(model), removed):
        wanted = logits(model, processor)
    parts.remove_layers(model, decoder=removed)
    assert len(parts.decoder_layers(model)) == N_DECODER - len(removed)
    found = logits(model, processor)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert not torch.allclose(found, whole, atol=1e-2)


def test_removing_tower_layers_is_skipping_them(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    whole = logits(model, processor)
    with skipped(parts.tower_layers(model), {0, 2}):
        wanted = logits(model, processor)
    parts.remove_layers(model, tower=[2, 0])
    assert len(parts.tower_layers(model)) == 1
    found = logits(model, processor)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert not torch.allclose(found, whole, atol=1e-2)


def test_a_cut_model_generates_with_its_cache_as_without(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    parts.remove_layers(model, decoder={1, 2}, tower={1})
    assert generated(model, processor) == generated_without_cache(model, processor)


def test_layers_are_numbered_anew_after_every_removal(model: Qwen2AudioForConditionalGeneration) -> None:
    kept: list[Any] = [parts.decoder_layers(model)[i] for i in (0, 3, 4)]
    parts.remove_layers(model, decoder={1})
    parts.remove_layers(model, decoder={1})
    assert list(parts.decoder_layers(model)) == kept
    assert [layer.self_attn.layer_idx for layer in kept] == [0, 1, 2]
    text: Any = model.config.text_config
    assert text.num_hidden_layers == 3
    assert text.layer_types == ["full_attention"] * 3
    assert model.model.language_model.config.num_hidden_layers == 3


def test_layers_that_were_left_out_for_a_while_are_back_as_they_were(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    whole = logits(model, processor)
    ids = generated(model, processor)
    with skipped(parts.decoder_layers(model), {1, 4}), skipped(parts.tower_layers(model), {0}):
        wanted = logits(model, processor)
    with parts.without_layers(model, decoder={1, 4}, tower={0}):
        torch.testing.assert_close(logits(model, processor), wanted, rtol=0, atol=0)
        assert generated(model, processor) == generated_without_cache(model, processor)
    torch.testing.assert_close(logits(model, processor), whole, rtol=0, atol=0)
    assert generated(model, processor) == ids
    with pytest.raises(ZeroDivisionError), parts.without_layers(model, decoder={0}):
        raise ZeroDivisionError
    torch.testing.assert_close(logits(model, processor), whole, rtol=0, atol=0)
    layers: list[Any] = list(parts.decoder_layers(model))
    assert [layer.self_attn.layer_idx for layer in layers] == list(range(N_DECODER))


@pytest.mark.parametrize(
    ("removed", "complaint"),
    [
        ({"decoder": {5}}, "the decoder has layers 0 to 4: there is no 5"),
        ({"decoder": {1, -1, 7}}, "there is no -1, 7"),
        ({"tower": {3}}, "the audio tower has layers 0 to 2: there is no 3"),
        ({"decoder": {0, 1, 2, 3, 4}}, "the decoder has 5 layers: not all"),
        ({"tower": {0, 1, 2}}, "the audio tower has 3 layers: not all"),
        ({"decoder": {0}, "tower": {9}}, "there is no 9"),
    ],
)
def test_layers_that_cannot_be_removed_are_named_and_nothing_is_changed(
    removed: dict[str, set[int]], complaint: str, model: Qwen2AudioForConditionalGeneration
) -> None:
    with pytest.raises(RecipeError, match=complaint):
        parts.remove_layers(model, **removed)
    assert len(parts.decoder_layers(model)) == N_DECODER
    assert len(parts.tower_layers(model)) == N_TOWER


def test_removing_nothing_changes_nothing(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor
) -> None:
    before = logits(model, processor)
    parts.remove_layers(model)
    torch.testing.assert_close(logits(model, processor), before, rtol=0, atol=0)


# --- on disk ----------------------------------------------------------------------------------------------------


def test_a_cut_model_is_read_back_the_same(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, tmp_path: Path
) -> None:
    parts.remove_layers(model, decoder={0, 3}, tower={1})
    parts.save(model, processor, tmp_path / "cut")
    again = Checkpoint.open(tmp_path / "cut").load_model("cpu", torch.float32)
    torch.testing.assert_close(logits(again, processor), logits(model, processor), rtol=0, atol=0)
    assert generated(again, processor) == generated(model, processor)
    shapes = shapes_on_disk(tmp_path / "cut")
    for prefix, n_layers in (("language_model.model.layers", 3), ("audio_tower.layers", 2)):
        layers = {name.removeprefix(f"{prefix}.").split(".")[0] for name in shapes if name.startswith(prefix)}
        assert layers == {str(i) for i in range(n_layers)}
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == len(config["text_config"]["layer_types"]) == 3
    assert config["audio_config"]["encoder_layers"] == 2


def test_a_cut_model_that_came_from_disk_is_written_in_hub_layout_too(
    processor: Qwen2AudioProcessor, tmp_path: Path
) -> None:
    loaded = Checkpoint.open(POCKET).load_model("cpu", torch.bfloat16)
    parts.remove_layers(loaded, decoder={2, 9})
    parts.save(loaded, processor, tmp_path)
    shapes = shapes_on_disk(tmp_path)
    assert shapes == Architecture.read(tmp_path).shapes()
    pocket = shapes_on_disk(POCKET)
    assert set(shapes) < set(pocket)
    with safe_open(tmp_path / "model.safetensors", "pt") as found, safe_open(POCKET / "model.safetensors", "pt") as old:
        moved = "language_model.model.layers.{}.mlp.up_proj.weight"
        assert torch.equal(found.get_tensor(moved.format(2)), old.get_tensor(moved.format(3)))
        assert torch.equal(found.get_tensor(moved.format(9)), old.get_tensor(moved.format(11)))


@pytest.mark.parametrize(
    ("dtype", "stored"), [(None, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)]
)
def test_weights_are_stored_in_the_dtype_that_is_asked_for(
    dtype: torch.dtype | None,
    stored: torch.dtype,
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    tmp_path: Path,
) -> None:
    parts.save(model, processor, tmp_path, dtype)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {stored}  # noqa: SIM118 - no mapping
    config = json.loads((tmp_path / "config.json").read_text())
    for section in (config, config["text_config"], config["audio_config"]):
        assert section["dtype"] == str(stored).removeprefix("torch.")
    assert config["architectures"] == ["Qwen2AudioForConditionalGeneration"]
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.config.dtype in (None, torch.float32)


def test_weights_from_elsewhere_are_stored_in_place_of_the_models_own(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, tmp_path: Path
) -> None:
    ones = {name: torch.ones_like(weight) for name, weight in model.state_dict().items()}
    parts.save(model, processor, tmp_path, torch.bfloat16, ones)
    loaded = Checkpoint.open(tmp_path).load_model("cpu", torch.float32)
    assert all(bool((weight == 1).all()) for weight in loaded.state_dict().values())


def test_what_a_published_checkpoint_ends_at_is_kept(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, tmp_path: Path
) -> None:
    parts.save(model, processor, tmp_path / "built")
    assert not (tmp_path / "built" / "generation_config.json").exists()
    settings = {"eos_token_id": [7, 9], "do_sample": False, "temperature": 0.7}  # as some are: it contradicts itself
    (tmp_path / "built" / "generation_config.json").write_text(json.dumps(settings))
    loaded = Checkpoint.open(tmp_path / "built").load_model("cpu", torch.float32)
    parts.save(loaded, processor, tmp_path / "again")
    again = Checkpoint.open(tmp_path / "again").load_model("cpu", torch.float32)
    assert again.generation_config.eos_token_id == [7, 9]


# --- parts ------------------------------------------------------------------------------------------------------


def names_of(model: Qwen2AudioForConditionalGeneration, part: str) -> set[str]:
    members = {id(weight) for module in parts.part_modules(model, part) for weight in module.parameters()}
    return {name for name, weight in model.named_parameters() if id(weight) in members}


def test_every_weight_belongs_to_one_part(model: Qwen2AudioForConditionalGeneration) -> None:
    names = [name for part in parts.PARTS for name in names_of(model, part)]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert names_of(model, "embeddings") == {"model.language_model.embed_tokens.weight"}
    assert names_of(model, "lm_head") == {"lm_head.weight"}


@pytest.mark.parametrize("frozen", [(), ("tower",), ("tower", "embeddings", "lm_head"), parts.PARTS])
def test_only_what_is_not_frozen_trains(frozen: tuple[str, ...], model: Qwen2AudioForConditionalGeneration) -> None:
    model.requires_grad_(False)
    parts.freeze(model, frozen)
    trains = {name for name, weight in model.named_parameters() if weight.requires_grad}
    wanted = {name for part in parts.PARTS if part not in frozen for name in names_of(model, part)}
    assert trains == wanted - {"model.audio_tower.embed_positions.weight"}
    assert {part for part in parts.PARTS if parts.is_frozen(model, part)} == set(frozen)


def test_loading_makes_transformers_forget_what_it_never_trains() -> None:
    """Why `freeze` names the tower's positions; should this fail, it need not any more."""
    loaded = Checkpoint.open(POCKET).load_model("cpu", torch.float32)
    assert loaded.model.audio_tower.embed_positions.weight.requires_grad


def test_an_unknown_part_is_refused_and_the_known_ones_are_named(model: Qwen2AudioForConditionalGeneration) -> None:
    with pytest.raises(RecipeError, match="no part 'encoder'; parts: tower, projector, decoder, embeddings, lm_head"):
        parts.freeze(model, ["encoder"])
