"""What a Qwen2-Audio configuration says about the tensors of its checkpoint: names and shapes, no weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from compress.errors import CheckpointError, RecipeError

Shape = tuple[int, ...]

EMBED_TOKENS: Final = "language_model.model.embed_tokens.weight"  # in hub layout
LM_HEAD: Final = "language_model.lm_head.weight"

# What transformers fills in for a key that `config.json` leaves out.
_TEXT_DEFAULTS: Final = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
_TOWER_DEFAULTS: Final = {
    "d_model": 1280,
    "encoder_ffn_dim": 5120,
    "encoder_layers": 32,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
}


@dataclass(frozen=True)
class Architecture:
    """The numbers that decide the shape of every tensor.

    Attributes:
        name: for people, in reports.
        n_tower_layers: layers of the audio tower (the paper's encoder).
        n_layers: layers of the decoder.
    """

    name: str
    tower_width: int
    tower_ffn: int
    n_tower_layers: int
    n_mels: int
    n_frames: int
    width: int
    ffn: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_width: int
    vocabulary: int

    @classmethod
    def read(cls, path: str | Path) -> Architecture:
        """Reads a `config.json`, or the one in a directory.

        Raises:
            CheckpointError: missing, no JSON, no Qwen2-Audio, or a value that is no size.
        """
        given = Path(path).expanduser()
        file = given / "config.json" if given.is_dir() else given
        if not file.is_file():
            raise CheckpointError(f"no configuration at {file}")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:  # JSON's and UTF-8's decoding errors alike
            raise CheckpointError(f"{file} is not valid JSON: {error}") from error
        kind = content.get("model_type") if isinstance(content, dict) else type(content).__name__
        if kind != "qwen2_audio":
            raise CheckpointError(f"{file} must configure model_type qwen2_audio, found {kind}")
        name = file.resolve().parent.name if file.name == "config.json" else file.stem
        return _from_config(name, content, file)

    def keep(self, n_tower_layers: int, n_layers: int) -> Architecture:
        """The same model with that many layers left.

        Raises:
            RecipeError: none left, or more than there are.
        """
        if not (1 <= n_tower_layers <= self.n_tower_layers and 1 <= n_layers <= self.n_layers):
            raise RecipeError(
                f"cannot keep {n_tower_layers},{n_layers} layers: {self.name} has 1 to {self.n_tower_layers} "
                f"in the audio tower and 1 to {self.n_layers} in the decoder"
            )
        return replace(self, n_tower_layers=n_tower_layers, n_layers=n_layers)

    def shapes(self) -> dict[str, Shape]:
        """Every tensor of the model by its name in hub layout, in the order of the forward pass."""
        return dict([*self._tower(), *self._projector(), *self._decoder()])

    def _tower(self) -> Iterator[tuple[str, Shape]]:
        width, ffn = self.tower_width, self.tower_ffn
        kernel = 3  # frames, of both convolutions
        yield "audio_tower.conv1.weight", (width, self.n_mels, kernel)
        yield "audio_tower.conv1.bias", (width,)
        yield "audio_tower.conv2.weight", (width, width, kernel)
        yield "audio_tower.conv2.bias", (width,)
        yield "audio_tower.embed_positions.weight", (self.n_frames, width)
        for index in range(self.n_tower_layers):
            layer = f"audio_tower.layers.{index}"
            for norm in ("self_attn_layer_norm", "final_layer_norm"):
                yield f"{layer}.{norm}.weight", (width,)
                yield f"{layer}.{norm}.bias", (width,)
            for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield f"{layer}.self_attn.{projection}.weight", (width, width)
                if projection != "k_proj":  # Whisper's keys have no bias
                    yield f"{layer}.self_attn.{projection}.bias", (width,)
            yield f"{layer}.fc1.weight", (ffn, width)
            yield f"{layer}.fc1.bias", (ffn,)
            yield f"{layer}.fc2.weight", (width, ffn)
            yield f"{layer}.fc2.bias", (width,)
        yield "audio_tower.layer_norm.weight", (width,)
        yield "audio_tower.layer_norm.bias", (width,)

    def _projector(self) -> Iterator[tuple[str, Shape]]:
        yield "multi_modal_projector.linear.weight", (self.width, self.tower_width)
        yield "multi_modal_projector.linear.bias", (self.width,)

    def _decoder(self) -> Iterator[tuple[str, Shape]]:
        width, ffn = self.width, self.ffn
        query, key = self.n_heads * self.head_width, self.n_kv_heads * self.head_width
        yield EMBED_TOKENS, (self.vocabulary, width)
        for index in range(self.n_layers):
            layer = f"language_model.model.layers.{index}"
            yield f"{layer}.input_layernorm.weight", (width,)
            for projection, rows in (("q_proj", query), ("k_proj", key), ("v_proj", key)):
                yield f"{layer}.self_attn.{projection}.weight", (rows, width)
                yield f"{layer}.self_attn.{projection}.bias", (rows,)
            yield f"{layer}.self_attn.o_proj.weight", (width, query)
            yield f"{layer}.post_attention_layernorm.weight", (width,)
            yield f"{layer}.mlp.gate_proj.weight", (ffn, width)
            yield f"{layer}.mlp.up_proj.weight", (ffn, width)
            yield f"{layer}.mlp.down_proj.weight", (width, ffn)
        yield "language_model.model.norm.weight", (width,)
        yield LM_HEAD, (self.vocabulary, width)


QWEN2_AUDIO_7B: Final = Architecture(
    name="Qwen2-Audio-7B",
    tower_width=1280,
    tower_ffn=5120,
    n_tower_layers=32,
    n_mels=128,
    n_frames=1500,
    width=4096,
    ffn=11008,
    n_layers=32,
    n_heads=32,
    n_kv_heads=32,
    head_width=128,
    vocabulary=156032,
)


def is_linear(name: str, shape: Shape) -> bool:
    """Whether a tensor of `Architecture.shapes` is the weight of one of the linear modules, lm_head left out.

    Those are what bitsandbytes quantises and what peft's `all-linear` adapts: 417 in Qwen2-Audio-7B.
    """
    return len(shape) == 2 and not any(part in name for part in ("embed_positions", "embed_tokens", "lm_head"))


def _from_config(name: str, content: dict[str, Any], file: Path) -> Architecture:
    if content.get("tie_word_embeddings") is True:
        raise CheckpointError(f"{file} ties lm_head to the embeddings, which transformers does not reload")
    text, tower = (_section(content, key, file) for key in ("text_config", "audio_config"))
    width = _size(text, "hidden_size", _TEXT_DEFAULTS, file)
    n_heads = _size(text, "num_attention_heads", _TEXT_DEFAULTS, file)
    return Architecture(
        name=name,
        tower_width=_size(tower, "d_model", _TOWER_DEFAULTS, file),
        tower_ffn=_size(tower, "encoder_ffn_dim", _TOWER_DEFAULTS, file),
        n_tower_layers=_size(tower, "encoder_layers", _TOWER_DEFAULTS, file),
        n_mels=_size(tower, "num_mel_bins", _TOWER_DEFAULTS, file),
        n_frames=_size(tower, "max_source_positions", _TOWER_DEFAULTS, file),
        width=width,
        ffn=_size(text, "intermediate_size", _TEXT_DEFAULTS, file),
        n_layers=_size(text, "num_hidden_layers", _TEXT_DEFAULTS, file),
        n_heads=n_heads,
        n_kv_heads=_size(text, "num_key_value_heads", _TEXT_DEFAULTS, file),
        head_width=width // n_heads if text.get("head_dim") is None else _size(text, "head_dim", {}, file),
        vocabulary=_size(text, "vocab_size", _TEXT_DEFAULTS, file),
    )


def _section(content: dict[str, Any], key: str, file: Path) -> dict[str, Any]:
    section = content.get(key, {})
    if not isinstance(section, dict):
        raise CheckpointError(f"{file}: {key} must be an object, found {type(section).__name__}")
    return section


def _size(section: dict[str, Any], key: str, defaults: dict[str, int], file: Path) -> int:
    value = section.get(key, defaults.get(key))
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{file}: {key} must be a whole number above 0, found {value!r}")
    return value
