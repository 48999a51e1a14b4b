"""Checkpoint directories: what is in one, where it came from, and how to load it safely."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compress.errors import CheckpointError
from compress.weights.schemes import METHOD

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

POCKET: Final = Path(__file__).parent / "pocket" / "checkpoint"
LINEAGE_FILE: Final = "lineage.json"
ADAPTER_FOLDER: Final = "adapter"
# as peft calls them
ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"

_REQUIRED: Final = ("config.json", "tokenizer.json")
# transformers 5 writes the first name; checkpoints on the hub have the second.
PROCESSOR_FILES: Final = ("processor_config.json", "preprocessor_config.json")
# Formats that execute code when they are read.
_UNSAFE: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.py")
_MAKERS: Final = ("torch", "transformers", "bitsandbytes", "peft")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory in hub layout, checked but not loaded.

    Attributes:
        path: the directory.
        name: the directory's model name (`lineage.json`'s, else the directory's own).
        lineage: what `lineage.json` says: parent, layers kept, format, seeds, versions, scores.
        n_bytes: size of the safetensors files with the adapter's, in bytes.
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
        missing = missing_files(path)
        if missing:
            raise CheckpointError(f"{directory} is no checkpoint: {', '.join(missing)} missing")
        unsafe = unsafe_files(path)
        if unsafe:
            raise CheckpointError(f"{directory} holds {', '.join(unsafe)}: only safetensors weights are loaded")
        weights = sorted(path.glob("*.safetensors"))
        if not weights:
            raise CheckpointError(f"{directory} holds no *.safetensors weights")
        weights += sorted((path / ADAPTER_FOLDER).glob("*.safetensors"))
        lineage = read_object(path / LINEAGE_FILE) if (path / LINEAGE_FILE).is_file() else {}
        return cls(path, str(lineage.get("name", path.name)), lineage, sum(file.stat().st_size for file in weights))

    @property
    def adapter(self) -> Path | None:
        """The folder of the low-rank adapter that belongs to the weights; None where there is none."""
        folder = self.path / ADAPTER_FOLDER
        return folder if folder.is_dir() else None

    @property
    def quantisation(self) -> dict[str, Any] | None:
        """What `config.json` says about quantised weights; None for plain ones.

        Raises:
            CheckpointError: `config.json` is none.
        """
        found = read_object(self.path / "config.json").get("quantization_config")
        return found if isinstance(found, dict) else None

    @property
    def identity(self) -> str:
        """Another one when the checkpoint is made anew from something else; no part of it are scores, which come later.

        What checkpoints are called counts only where nothing says what they are made from.
        """
        made = {key: value for key, value in self.lineage.items() if key not in ("name", "parent", "scores")}
        made["history"] = [
            {key: value for key, value in step.items() if key != "source"} for step in made.get("history", [])
        ]
        name = None if "made_from" in made else self.name
        content = json.dumps([name, made, self.n_bytes], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def stored_dtype(self) -> torch.dtype:
        """In which `config.json` says that the weights are stored.

        Raises:
            CheckpointError: `config.json` is none.
        """
        import torch

        content = read_object(self.path / "config.json")
        # checkpoints on the hub have the older name
        dtype: torch.dtype = getattr(torch, content.get("dtype") or content.get("torch_dtype") or "bfloat16")
        return dtype

    def load_model(self, device: str, dtype: torch.dtype) -> Qwen2AudioForConditionalGeneration:
        """Loads the weights in evaluation mode, from local safetensors files only.

        nf4 stays as it is, other quantised weights become plain, an adapter is put into what it adapts and frozen.

        Args:
            device: where to.
            dtype: of everything that is not quantised; what the files hold is cast.

        Raises:
            CheckpointError: a package is missing that these weights need, or the adapter fits other weights.
        """
        method = (self.quantisation or {}).get("quant_method")
        quantised = method == "bitsandbytes"
        needed = {"bitsandbytes": quantised, "peft": self.adapter is not None}
        self._check_installed([package for package, wanted in needed.items() if wanted])

        from transformers import Qwen2AudioForConditionalGeneration

        from compress.attention import GROUPED

        model: Qwen2AudioForConditionalGeneration
        if method == METHOD:
            from compress.weights import compressed_tensors

            model = compressed_tensors.load(self.path, dtype)
        else:
            model = Qwen2AudioForConditionalGeneration.from_pretrained(
                self.path,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                attn_implementation=GROUPED,
                device_map=device if quantised else None,  # 4-bit weights would choose a device for themselves
            )
        if quantised:
            _settle(model, dtype)
        else:
            model.to(device)  # type: ignore[arg-type]  # transformers hides the method's own hints
        if self.adapter is not None:
            _attach(model, self.adapter, dtype)
        model.eval()
        return model

    def load_for_inference(self, dtype: torch.dtype | None = None) -> Qwen2AudioForConditionalGeneration:
        """Loads the weights as `load_model` does, onto the GPU if there is one, and freezes them.

        Args:
            dtype: see `load_model`; bf16 on a GPU and fp32 on a CPU when absent.

        Raises:
            CheckpointError: see `load_model`.
        """
        import torch

        device = default_device()
        model = self.load_model(device, dtype or (torch.bfloat16 if device == "cuda" else torch.float32))
        model.requires_grad_(requires_grad=False)
        return model

    def load_processor(self) -> Qwen2AudioProcessor:
        """Loads tokenizer and feature extractor."""
        from transformers import Qwen2AudioProcessor

        return Qwen2AudioProcessor.from_pretrained(self.path, local_files_only=True)

    def descend(self, name: str, stage: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
        """The lineage of a checkpoint that a stage makes from this one.

        Which layers are left and the stages so far are inherited; scores are not, they are those of other weights.

        Args:
            name: of the new checkpoint.
            stage: the settings it is made with, for the history.
            facts: what else there is to say; wins over what is inherited.
        """
        inherited: dict[str, Any] = {
            key: self.lineage[key] for key in ("layers", "tower_layers", "language") if key in self.lineage
        }
        history = [*self.lineage.get("history", []), {**stage, "source": self.name}]
        return {"name": name, "parent": self.name, **inherited, "history": history, "versions": _versions(), **facts}

    def _check_installed(self, packages: list[str]) -> None:
        missing = [package for package in packages if find_spec(package) is None]
        if missing:
            raise CheckpointError(
                f"{self.name} cannot be loaded without {' and '.join(missing)}: pip install 'kompakt-st[compress]'"
            )


def default_device() -> str:
    """The GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def missing_files(path: Path) -> list[str]:
    """Names of the files that every checkpoint has and this directory lacks; weights are not among them."""
    missing = [name for name in _REQUIRED if not (path / name).is_file()]
    if not any((path / name).is_file() for name in PROCESSOR_FILES):
        missing.append(PROCESSOR_FILES[0])
    folder = path / ADAPTER_FOLDER
    if folder.is_dir():
        missing += [
            f"{ADAPTER_FOLDER}/{name}" for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (folder / name).is_file()
        ]
    return missing


def unsafe_files(path: Path) -> list[str]:
    """Names of the files in a format that can run code when it is read."""
    folders = (path, path / ADAPTER_FOLDER)
    found = [file for folder in folders for pattern in _UNSAFE for file in folder.glob(pattern)]
    return sorted(file.relative_to(path).as_posix() for file in found)


def read_object(path: Path) -> dict[str, Any]:
    """Reads a file that holds a JSON object.

    Raises:
        CheckpointError: it does not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSON's and UTF-8's decoding errors alike
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, found {type(content).__name__}")
    return content


def _settle(model: Qwen2AudioForConditionalGeneration, dtype: torch.dtype) -> None:
    """Makes a model with 4-bit weights what was asked for, the same on every machine."""
    from bitsandbytes.nn.modules import Linear4bit

    for weight in model.parameters():
        # transformers loads these in the dtype they are stored in, whatever it is told
        if weight.is_floating_point() and not hasattr(weight, "quant_state"):
            weight.data = weight.data.to(dtype)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On CPUs with AVX-512 bitsandbytes repacks the weights when it first runs them: the scales are rounded to
            # bf16, widths that 32 does not divide fail, and what `state_dict` then gives are other weights.
            module.support_avx512bf16_for_cpu = False
            # The stored one is of their training; in bf16, others in the batch would decide how a row is rounded.
            module.compute_dtype = dtype


def _attach(model: Qwen2AudioForConditionalGeneration, folder: Path, dtype: torch.dtype) -> None:
    """Puts a stored adapter into the model's modules, frozen, in that dtype whatever peft makes of it."""
    from peft import LoraConfig
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = {_in_memory(name): factor for name, factor in load_file(folder / ADAPTER_WEIGHTS).items()}
        model.add_adapter(LoraConfig.from_pretrained(str(folder)))
    except (KeyError, SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(f"the adapter in {folder} cannot be used: {error}") from error
    factors = {name: factor for name, factor in model.named_parameters() if ".lora_" in name}
    strange = [
        name
        for name in sorted(factors.keys() | stored.keys())
        if name not in factors or name not in stored or factors[name].shape != stored[name].shape
    ]
    if strange:
        raise CheckpointError(
            f"the adapter in {folder} is for other weights: {len(strange)} tensors do not fit, such as {strange[0]}"
        )
    for name, factor in factors.items():
        factor.data = stored[name].to(factor.device, dtype)
        factor.requires_grad_(False)


def _in_memory(name: str) -> str:
    """Peft's name on disk as the adapted model has it."""
    plain = name.removeprefix("base_model.model.")
    for factor in (".lora_A.", ".lora_B."):
        plain = plain.replace(factor, f"{factor}default.")
    return plain


def _versions() -> dict[str, str]:
    found = {}
    for package in _MAKERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
