"""How the tensors of a checkpoint are stored, and storing them another way: tensor by tensor, never as a model."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from compress.checkpoint import ADAPTER_FOLDER, LINEAGE_FILE, PROCESSOR_FILES, Checkpoint, read_object
from compress.errors import CheckpointError
from compress.weights import adapter, quantise
from compress.weights.architectures import Architecture, Shape
from compress.weights.key_layout import hub_name
from compress.weights.quantise import Modules, Parts

WEIGHTS: Final = "model.safetensors"
# Everything else that a checkpoint needs, copied as it is. Names of transformers 5 and of the hub's older files.
_COMPANIONS: Final = (
    *PROCESSOR_FILES,
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)


@dataclass(frozen=True)
class Form:
    """How a checkpoint is to be stored.

    Attributes:
        nf4: which linear modules are 4-bit; of weights that already are, no others become so. None makes all plain.
        rest: dtype of everything else, an adapter included.  Values are rounded to bf16 whatever it is.
        double: whether the scales of 4-bit weights are quantised, too; weights that are 4-bit already stay as they are.
        merge: add the adapter to the weights; otherwise it stays beside them.
    """

    nf4: Modules | None
    rest: torch.dtype
    double: bool = True
    merge: bool = False


def rewrite(source: Checkpoint, directory: Path, form: Form) -> None:
    """Writes weights, configuration, tokenizer and processor of a checkpoint in another form; no lineage, no card.

    4-bit weights that stay 4-bit and are not merged into are copied bit for bit.

    Raises:
        CheckpointError: the tensors are not those that the configuration asks for.
    """
    shapes = Architecture.read(source.path).shapes()
    merged = adapter.Adapter.open(source.adapter, shapes) if form.merge and source.adapter else None
    before = source.quantisation
    if before is not None:
        if before.get("quant_method") != "bitsandbytes":
            raise CheckpointError(
                f"{source.name} is stored in the format of {before.get('quant_method')}, which is not brought into "
                f"another form: export {source.lineage.get('parent', 'what it was made from')}"
            )
        form = replace(form, double=bool(before.get("bnb_4bit_use_double_quant")))
    with opened(source.path) as stored:
        stored.check(shapes)
        tensors = {
            name + suffix: part.contiguous()
            for name, shape in shapes.items()
            for suffix, part in _converted(name, shape, stored, merged, form, keep=before is not None).items()
        }
        directory.mkdir(parents=True, exist_ok=True)
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    _write_configuration(source, directory, form)
    for name in _COMPANIONS:
        if (source.path / name).is_file():
            shutil.copy(source.path / name, directory)
    if source.adapter and not form.merge:
        adapter.copy(source.adapter, directory / ADAPTER_FOLDER, form.rest)


class Stored:
    """The tensors of a checkpoint by their names in hub layout; each is read when it is asked for."""

    def __init__(self, tensors: dict[str, tuple[Any, str]]) -> None:
        """Takes (open file, name in it) by hub name."""
        self._tensors = tensors
        self._suffixes: dict[str, list[str]] = {}
        for name in tensors:
            weight, _, suffix = name.partition(".weight.")
            if suffix:
                self._suffixes.setdefault(f"{weight}.weight", []).append(f".{suffix}")

    def parts(self, name: str) -> Parts:
        """A weight in nf4 or plain, and what its format keeps beside it."""
        return {suffix: self.tensor(name + suffix) for suffix in ("", *self._suffixes.get(name, []))}

    def check(self, shapes: dict[str, Shape]) -> None:
        """Compares names, and the shapes of what is not quantised.

        Raises:
            CheckpointError: tensors are missing, too many, or of another shape.
        """
        held = {name for name in self._tensors if ".weight." not in name}
        problems = [f"{name} is missing" for name in sorted(shapes.keys() - held)]
        problems += [f"{name} belongs to nothing" for name in sorted(held - shapes.keys())]
        for name in sorted(shapes.keys() & held):
            file, key = self._tensors[name]
            found = tuple(file.get_slice(key).get_shape())
            if name not in self._suffixes and found != shapes[name]:
                problems.append(f"{name} has shape {found}, not {shapes[name]}")
        if problems:
            more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise CheckpointError(f"the weights do not fit config.json: {'; '.join(problems[:3])}{more}")

    def tensor(self, name: str) -> Tensor:
        """One tensor as it is stored."""
        file, key = self._tensors[name]
        tensor: Tensor = file.get_tensor(key)
        return tensor


@contextmanager
def opened(directory: Path) -> Iterator[Stored]:
    """The tensors of a directory's safetensors files, without an adapter's.

    Raises:
        CheckpointError: a damaged file, or a tensor that is in two of them.
    """
    tensors: dict[str, tuple[Any, str]] = {}
    with ExitStack() as stack:
        for path in sorted(directory.glob("*.safetensors")):
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path} is no readable safetensors file: {error}") from error
            for key in file.keys():  # noqa: SIM118 - no mapping
                if hub_name(key) in tensors:
                    raise CheckpointError(f"{directory} holds {hub_name(key)} twice: one of them is stale")
                tensors[hub_name(key)] = (file, key)
        yield Stored(tensors)


def begin(out: Path) -> Path:
    """An empty directory beside `out`, to be filled and put in its place by `finish`.

    Raises:
        CheckpointError: `out` holds something that is no checkpoint.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file():
        raise CheckpointError(f"{out} holds files and is no checkpoint: name another directory, this one is replaced")
    temporary = out.with_name(f"{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def finish(temporary: Path, out: Path) -> Checkpoint:
    """Puts a filled directory in its place; whatever kills the process, `out` is the old one, or missing, or whole."""
    for weights in temporary.rglob("*.safetensors"):
        weights.chmod((temporary / LINEAGE_FILE).stat().st_mode)  # written for their owner's eyes only, unlike the rest
    old = out.with_name(f"{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.is_dir():
        out.rename(old)
    temporary.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    return Checkpoint.open(out)


def digest(*content: Any) -> str:
    """A short name for what something is made from; another one as soon as any of it changes."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def is_made(out: Path, made_from: str) -> bool:
    """Whether `out` is a checkpoint whose lineage says that it was made from that."""
    lineage = out / LINEAGE_FILE
    return lineage.is_file() and read_object(lineage).get("made_from") == made_from


def write_lineage(directory: Path, lineage: dict[str, Any]) -> None:
    """Writes what `Checkpoint.descend` gave and a stage added to it."""
    write_whole(directory / LINEAGE_FILE, json.dumps(lineage, indent=2, ensure_ascii=False) + "\n")


def write_whole(file: Path, text: str) -> None:
    """Has a file hold a text; whatever kills the process, it is the old one or the new one, and the same one stays."""
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        return
    temporary = file.with_name(f"{file.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def _converted(
    name: str, shape: Shape, stored: Stored, merged: adapter.Adapter | None, form: Form, keep: bool
) -> Parts:
    """One weight in its new form; `keep` has 4-bit weights, and only those, stay 4-bit."""
    parts = stored.parts(name)
    was_nf4 = quantise.is_quantised(parts)
    if len(parts) > 1 and not was_nf4:
        raise CheckpointError(f"{name} is quantised, and not in nf4: there is no other form to bring it into")
    to_nf4 = form.nf4 is not None and quantise.covers(form.nf4, name, shape) and (was_nf4 or not keep)
    update = merged.update(name) if merged else None
    if was_nf4 and to_nf4 and update is None:
        return parts
    weight = quantise.dequantise(parts) if was_nf4 else parts[""]
    if update is not None:
        weight = weight.float() + update
    weight = weight.to(torch.bfloat16)
    return quantise.quantise(weight, form.double) if to_nf4 else {"": weight.to(form.rest)}


def _write_configuration(source: Checkpoint, directory: Path, form: Form) -> None:
    content = read_object(source.path / "config.json")
    before = content.pop("quantization_config", None)
    content.pop("torch_dtype", None)  # the older name
    content["dtype"] = str(form.rest).removeprefix("torch.")
    if form.nf4 is not None:
        kept = before if form.nf4 == "all" else None  # they say for themselves which are
        content["quantization_config"] = kept or quantise.settings(form.nf4, form.double)
    (directory / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
