"""What is wrong with a checkpoint directory, and who can serve it; from names, headers and settings, before loading."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compress.checks import formats, processor, structure
from compress.checks.patient import ENGINES, EngineName, Finding, Patient
from compress.errors import CheckpointError
from compress.weights import schemes

# where vLLM has them
INTEGER_KERNELS: Final = "on a GPU or a CPU with AVX-512 VNNI"
INT8_WEIGHT_KERNELS: Final = "on a CUDA GPU"

# In this order: later checks use what earlier ones have read.
_CHECKS: Final[Mapping[str, Callable[[Patient], Iterator[Finding]]]] = {
    "files": structure.files,
    "safetensors only": structure.safetensors_only,
    "configuration": structure.configuration,
    "weights": structure.weights,
    "key layout": structure.key_layout,
    "layers": structure.layers,
    "layer types": structure.layer_types,
    "tensors": structure.tensors,
    "quantisation": formats.quantisation,
    "adapter": formats.adapter,
    "tokenizer": processor.tokenizer,
    "feature extractor": processor.feature_extractor,
}


@dataclass(frozen=True)
class Engine:
    """Whether an engine can serve the checkpoint.

    Attributes:
        name: of the engine.
        reasons: why not; none if it can.
        needs: packages that it needs for this checkpoint beside itself.
        where: on what device alone it computes these weights rightly; empty where on any.
    """

    name: EngineName
    reasons: tuple[str, ...]
    needs: tuple[str, ...]
    where: str

    @property
    def serves(self) -> bool:
        """Whether it can."""
        return not self.reasons


@dataclass(frozen=True)
class Report:
    """What an examination found.

    Attributes:
        path: the directory.
        checks: what each check found, in the order in which they were made; nothing where all is well.
        engines: whether they can serve it.
    """

    path: Path
    checks: Mapping[str, tuple[Finding, ...]]
    engines: tuple[Engine, ...]

    @property
    def healthy(self) -> bool:
        """Whether every engine can serve it."""
        return all(engine.serves for engine in self.engines)

    def engine(self, name: EngineName) -> Engine:
        """What there is to say about one engine."""
        return next(engine for engine in self.engines if engine.name == name)

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for `json.dumps`."""
        return {
            "path": str(self.path),
            "healthy": self.healthy,
            "checks": {check: [vars(finding) for finding in found] for check, found in self.checks.items()},
            "engines": [vars(engine) | {"serves": engine.serves} for engine in self.engines],
        }


def examine(directory: str | Path) -> Report:
    """Examines a checkpoint directory.

    Raises:
        CheckpointError: there is no such directory.
    """
    path = Path(directory).expanduser().resolve()
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint directory at {directory}")
    patient = Patient(path)
    checks = {name: tuple(check(patient)) for name, check in _CHECKS.items()}
    findings = [finding for found in checks.values() for finding in found]
    engines = tuple(
        Engine(
            name,
            tuple(one.message for one in findings if name in one.blocks),
            _needs(name, patient),
            kernels(patient.quantisation) if name == "vllm" else "",  # transformers computes with plain weights
        )
        for name in ENGINES
    )
    return Report(path, checks, engines)


def kernels(settings: Mapping[str, Any] | None) -> str:
    """On what device alone vLLM computes weights rightly of which a `quantization_config` speaks; empty for any."""
    if schemes.has_weight_only_int8(settings):
        return INT8_WEIGHT_KERNELS
    return "" if schemes.integer_bits(settings) is None else INTEGER_KERNELS


def runs_on_cpu(settings: Mapping[str, Any] | None, *, vnni: bool) -> bool:
    """Whether vLLM computes such weights rightly on a CPU.

    Args:
        settings: the checkpoint's `quantization_config`.
        vnni: whether the CPU has AVX-512 with VNNI.
    """
    return kernels(settings) in ("", INTEGER_KERNELS if vnni else "")


def _needs(engine: EngineName, patient: Patient) -> tuple[str, ...]:
    needed = []
    if patient.nf4:
        needed.append("bitsandbytes" if engine == "transformers" else "vllm-bnb-plugin")
    if patient.adapter is not None and engine == "transformers":
        needed.append("peft")
    return tuple(needed)
