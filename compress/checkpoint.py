"""Checkpoint directories: what is in one, where it came from, and how to load it safely."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compress.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

POCKET: Final = Path(__file__).parent / "pocket" / "checkpoint"
LINEAGE_FILE: Final = "lineage.json"

_REQUIRED: Final = ("config.json", "tokenizer.json")
# transformers 5 writes the first name; checkpoints on the hub have the second.
_PROCESSOR_FILES: Final = ("processor_config.json", "preprocessor_config.json")
# Formats that execute code when they are read.
_UNSAFE: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.py")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory in hub layout, checked but not loaded.

    Attributes:
        path: the directory.
        name: the directory's model name (`lineage.json`'s, else the directory's own).
        lineage: what `lineage.json` says: parent, layers kept, format, seeds, versions, scores.
        n_bytes: size of the safetensors files, in bytes.
    """

    path: Path
    name: str
    lineage: dict[str, Any] = field(hash=False)
    n_bytes: int

    @classmethod
    def open(cls, directory: str | Path) -> Checkpoint:
        """Checks a directory and reads its lineage.

        Raises:
            CheckpointError: missing, incomplete, or holding weights in a format that can run code.
        """
        path = Path(directory).expanduser().resolve()
        if not path.is_dir():
            raise CheckpointError(f"no checkpoint directory at {directory}")
        missing = [name for name in _REQUIRED if not (path / name).is_file()]
        if not any((path / name).is_file() for name in _PROCESSOR_FILES):
            missing.append(_PROCESSOR_FILES[0])
        if missing:
            raise CheckpointError(f"{directory} is no checkpoint: {', '.join(missing)} missing")
        unsafe = sorted(file.name for pattern in _UNSAFE for file in path.glob(pattern))
        if unsafe:
            raise CheckpointError(f"{directory} holds {', '.join(unsafe)}: only safetensors weights are loaded")
        weights = sorted(path.glob("*.safetensors"))
        if not weights:
            raise CheckpointError(f"{directory} holds no *.safetensors weights")
        lineage = _read_lineage(path / LINEAGE_FILE)
        return cls(path, str(lineage.get("name", path.name)), lineage, sum(file.stat().st_size for file in weights))

    def load_model(self, device: str, dtype: torch.dtype) -> Qwen2AudioForConditionalGeneration:
        """Loads the weights in evaluation mode, from local safetensors files only."""
        from transformers import Qwen2AudioForConditionalGeneration

        model: Qwen2AudioForConditionalGeneration = Qwen2AudioForConditionalGeneration.from_pretrained(
            self.path, dtype=dtype, local_files_only=True, use_safetensors=True, attn_implementation="sdpa"
        )
        model.to(device)  # type: ignore[arg-type]  # transformers hides the method's own hints
        model.eval()
        return model

    def load_processor(self) -> Qwen2AudioProcessor:
        """Loads tokenizer and feature extractor."""
        from transformers import Qwen2AudioProcessor

        return Qwen2AudioProcessor.from_pretrained(self.path, local_files_only=True)


def _read_lineage(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSON's and UTF-8's decoding errors alike
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, found {type(content).__name__}")
    return content
