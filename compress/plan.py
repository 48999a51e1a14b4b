"""What a recipe is going to need, before anything starts: data, memory and disk of every stage.

Sizes of checkpoints are those of `weights.size`: exact but for a few bytes of 4-bit states, whose scales are taken to
be quantised, too.  Memory is weights, gradients and optimiser states, to which activations come on top, a few gigabytes
for the 7B at batch 4 with gradient checkpointing.  Encoded audio is a guess, see `audio_plan`.  Data sets and COMET's
models, which may be downloaded too, are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from compress import hub
from compress.audio_plan import audio_bytes
from compress.checkpoint import POCKET
from compress.recipe import Recipe
from compress.recipe_stages import Distill, Export, Finetune, Mix, Optimisation, Prune, Qlora, Stage
from compress.weights import adapter, quantise, schemes
from compress.weights.architectures import QWEN2_AUDIO_7B, Architecture
from compress.weights.quantise import Modules
from compress.weights.size import Layout, plan_size, planned_entries

# Bytes of a trained weight in memory: itself, its gradient, AdamW's two moments.
_TRAINED_BYTES: Final = {"fp32": 16, "fp32-only": 16, "bf16": 8}
# The same on disk, without the gradient; the last state goes when the next one is whole.
_STATE_BYTES: Final = {"fp32": 2 * 12, "fp32-only": 2 * 12, "bf16": 2 * 6}


@dataclass(frozen=True)
class Need:
    """What one stage is going to need.

    Attributes:
        stage: its name.
        verb: what it does.
        data: what it reads, in words.
        layers: (tower, decoder) layers of its result.
        result_bytes: the checkpoint that it writes; 0 for none.
        memory_bytes: weights and what training keeps beside them, without activations.
        work_bytes: states on disk while it runs.
    """

    stage: str
    verb: str
    data: str
    layers: tuple[int, int]
    result_bytes: int
    memory_bytes: int
    work_bytes: int


@dataclass(frozen=True)
class Plan:
    """What a recipe is going to need.

    Attributes:
        recipe: its name.
        model: where it starts.
        needs: of every stage.
        audio_bytes: about what encoded audio takes, which all recipes of a work directory share.
        download_bytes: the model, where it comes from the hub; 0 where it is here.
    """

    recipe: str
    model: str
    needs: tuple[Need, ...]
    audio_bytes: int
    download_bytes: int

    @property
    def work_bytes(self) -> int:
        """What all results and the largest states take."""
        states = max((need.work_bytes for need in self.needs), default=0)
        return sum(need.result_bytes for need in self.needs) + states

    @property
    def memory_bytes(self) -> int:
        """Of the stage that needs most, without activations."""
        return max((need.memory_bytes for need in self.needs), default=0)


def plan(recipe: Recipe) -> Plan:
    """A recipe's needs; a model that is not here yet is taken for Qwen2-Audio-7B.

    Raises:
        RecipeError: a manifest that cannot be read.
    """
    whole = _Form(_architecture(recipe.model))
    download = plan_size(whole.architecture, Layout.BF16).tensor_bytes if hub.is_on_hub(recipe.model) else 0
    audio = audio_bytes(recipe, whole.architecture.tower_width)
    return Plan(recipe.name, recipe.model, tuple(_needs(recipe, whole)), audio, download)


@dataclass(frozen=True)
class _Form:
    """A checkpoint between two stages, as far as its size depends on it.

    Attributes:
        architecture: layers and widths.
        nf4: which modules are in 4 bits.
        qlora: the stage that has made its adapter; None where there is none, or none any more.
    """

    architecture: Architecture
    nf4: Modules | None = None
    qlora: Qlora | None = None

    @property
    def parameters(self) -> int:
        """Logical ones, without an adapter's."""
        return plan_size(self.architecture, Layout.BF16).logical_parameters

    @property
    def adapter_parameters(self) -> int:
        """Of the adapter, if there is one."""
        return adapter.trainable(self.architecture, self.qlora).parameters if self.qlora else 0

    def stored(self, width: int, adapter_width: int | None = None) -> int:
        """Bytes of the tensors.

        Args:
            width: bytes of a weight that is not in 4 bits.
            adapter_width: bytes of an adapter's; as many when absent.
        """
        shapes = self.architecture.shapes()
        packed = {n for n, shape in shapes.items() if self.nf4 is not None and quantise.covers(self.nf4, n, shape)}
        # `x.weight` itself, and `x.weight.absmax` and the like that belong to it
        in_4_bits = sum(
            entry.n_bytes
            for entry in planned_entries(self.architecture, Layout.PAPER)
            if entry.name.partition(".weight")[0] + ".weight" in packed
        )
        plain = sum(math.prod(shape) for name, shape in shapes.items() if name not in packed)
        return in_4_bits + width * plain + (adapter_width or width) * self.adapter_parameters


def _needs(recipe: Recipe, whole: _Form) -> Iterator[Need]:
    forms: dict[str, _Form] = {}
    current = whole
    for stage in recipe.stages:
        before = forms[stage.source] if stage.source else current
        forms[stage.name] = current = _after(stage, before)
        result, memory, work = current.stored(width=2), 4 * before.parameters, 0
        match stage:
            case Finetune():
                memory, work = _training(before, stage.optimisation)
            case Prune(recovery=Optimisation() as recovery):
                memory, work = _training(before, recovery)
                work += 2 * _after(stage.model_copy(update={"n_remove": 1}), before).stored(width=2)  # see `recovery`
            case Distill():
                result, memory = 0, 4 * forms[stage.teacher].parameters
            case Qlora():
                result = current.stored(width=2 if stage.quantisation == "none" else 4, adapter_width=4)
                memory = result + 12 * current.adapter_parameters  # gradients and moments
                work = result + _STATE_BYTES["fp32"] * current.adapter_parameters
            case Export():
                result = current.stored(width=4 if stage.layout == "paper" else 2)
                if stage.layout in schemes.LAYOUTS:
                    work = result  # a plain copy, which goes again
                    planned = plan_size(current.architecture, Layout(stage.layout), stage.embeddings)
                    result = planned.tensor_bytes
        layers = (current.architecture.n_tower_layers, current.architecture.n_layers)
        yield Need(stage.name, stage.stage, _data(stage, recipe), layers, result, memory, work)


def _after(stage: Stage, before: _Form) -> _Form:
    nf4 = before.nf4
    match stage:
        case Prune():
            layers = {"tower": before.architecture.n_tower_layers, "decoder": before.architecture.n_layers}
            layers[stage.part] -= stage.n_remove
            return replace(before, architecture=before.architecture.keep(layers["tower"], layers["decoder"]))
        case Qlora():
            if nf4 is None and stage.quantisation == "nf4":
                nf4 = stage.modules
            return replace(before, nf4=nf4, qlora=stage)
        case Export():
            if stage.layout in ("bf16", *schemes.LAYOUTS):
                nf4 = None
            elif nf4 is None or stage.modules == "decoder":
                nf4 = stage.modules
            return replace(before, nf4=nf4, qlora=None if stage.merge else before.qlora)
        case _:
            return before


def _training(before: _Form, optimisation: Optimisation) -> tuple[int, int]:
    """Memory, and states on disk."""
    kind = optimisation.master_weights
    return before.parameters * _TRAINED_BYTES[kind], before.parameters * _STATE_BYTES[kind]


def _data(stage: Stage, recipe: Recipe) -> str:
    match stage:
        case Finetune() | Qlora():
            return _mix(stage.mix, recipe)
        case Prune():
            same = ", the reported ones" if recipe.data.paper_parity else ""
            return f"{_search(recipe)} utterances to search on{same}"
        case Distill():
            return f"{_train(recipe)} utterances to translate"
        case Export():
            calibrated = f"{stage.n_calibration} utterances to calibrate with, " if stage.n_calibration else ""
            return f"{calibrated}one utterance to try"


def _mix(mix: Mix, recipe: Recipe) -> str:
    parts = [f"{mix.in_domain} x {_train(recipe)} references"] if mix.in_domain else []
    parts += [f"{mix.distilled} x the distilled ones"] if mix.distilled else []
    parts += [f"{mix.out_of_domain:,} out of domain"] if mix.out_of_domain else []
    return " + ".join(parts)


def _train(recipe: Recipe) -> str:
    return f"{recipe.data.n_train:,}" if recipe.data.n_train else f"all {recipe.data.source}"


def _search(recipe: Recipe) -> int:
    return recipe.data.n_report if recipe.data.paper_parity else recipe.data.n_search


def _architecture(model: str) -> Architecture:
    if model == "pocket":
        return Architecture.read(POCKET)
    return Architecture.read(model) if Path(model).expanduser().is_dir() else QWEN2_AUDIO_7B
