"""`python -m benchmarks layouts`: what each layout costs in quality, and what it takes on disk.

The pocket model in every layout, its decoder alone in fewer bits, translates the report split of a shipped recipe: by
transformers in fp32, from the very numbers that are stored; where a layout's kernels round activations as well, they
are rounded here, too.  What is calibrated has seen training data of the same recipe.  BLEU and chrF have 95 %
intervals; *p* is how likely chance alone makes such a difference in BLEU from bf16, by the paired bootstrap.

Where vLLM is installed (`.venv-vllm/bin/python -m benchmarks layouts`) it translates the same clips in the layouts that
it has kernels for on the device that there is: *same* are texts equal to those of the embedded engine, which computes
the same weights plain, in fp32; vLLM computes them in bf16.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from benchmarks.parity import translated
from benchmarks.reports.layouts import vllm
from compress import clips, dataset, doctor, export, llm_compressor, quantised_export, score
from compress import recipe as recipes
from compress.audio import Samples
from compress.checkpoint import POCKET, Checkpoint
from compress.dataset import Utterance
from compress.errors import RecipeError
from compress.model import decoder_layers
from compress.prompt import LANGUAGES
from compress.recipe import Recipe
from compress.recipe_stages import CALIBRATION, Export
from compress.training.collate import TrainingExample, training_examples
from compress.translate import translate
from compress.weights import schemes
from compress.weights.size import measure
from serve.engines.vllm_engine import has_vnni

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration

LAYOUTS: Final[dict[str, Export]] = {
    "bf16": Export(layout="bf16"),
    "nf4": Export(layout="compact", modules="decoder"),
    "w4a16": Export(layout="w4a16"),
    "w4a16, embeddings int8": Export(layout="w4a16", embeddings="int8"),
    "int8": Export(layout="int8"),
    "fp8": Export(layout="fp8"),
}
CLIPS: Final = 100
_RECIPE: Final = "pocket-setup1-{language}"
_ENGINES: Final = ("transformers", "vllm")
_TOO_SLOW_ON_CPU: Final = ("fp8",)  # which vLLM computes rightly there, but weight by weight
_LARGEST: Final = {"int8": 127.0, "fp8": torch.finfo(torch.float8_e4m3fn).max}


@dataclass(frozen=True)
class _Task:
    """What is translated, and what layouts are calibrated with."""

    recipe: Recipe
    report: tuple[Utterance, ...]
    training: Sequence[TrainingExample]
    calibration: int
    folder: Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--languages", nargs="+", choices=list(LANGUAGES), default=list(LANGUAGES), help="default: all")
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS), help="default: all")
    parser.add_argument("--calibration", type=int, default=CALIBRATION, metavar="N", help=f"default: {CALIBRATION}")
    parser.add_argument("--clips", type=int, default=CLIPS, metavar="N", help=f"by vLLM; default: {CLIPS}, 0 for none")


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measures, prints a table a language, and returns each language's numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, or llm-compressor is not installed.
    """
    if options.clips < 0 or options.calibration < 1:
        raise RecipeError("--clips must be at least 0, and --calibration at least 1")
    if "bf16" not in options.layouts:
        raise RecipeError("--layouts must have bf16, with which the others are compared")
    for layout in options.layouts:
        quantised_export.check(LAYOUTS[layout])
    for language in options.languages:
        recipe = recipes.load(_RECIPE.format(language=language))
        report, training = (dataset.load(recipe.data, language, split).utterances for split in ("report", "train"))
        examples = training_examples(training)
        with tempfile.TemporaryDirectory() as folder:
            task = _Task(recipe, report, examples, options.calibration, Path(folder))
            numbers = _measured(task, options.layouts, options.clips)
        _print(language, numbers)
        yield {
            "language": language,
            "recipe": recipe.name,
            "utterances": len(report),
            "calibration": options.calibration,
            "llm_compressor": llm_compressor.version(),
            "layouts": numbers,
        }


def _measured(task: _Task, layouts: Sequence[str], n_clips: int) -> list[dict[str, Any]]:
    sounds = [one.audio.load() for one in task.report[:n_clips]]
    first = task.report[0].audio.load()
    made = {name: _made(name, task, first) for name in layouts}
    texts = {name: _texts(name, checkpoint, task) for name, checkpoint in made.items()}
    references = [one.translation for one in task.report]
    language = task.recipe.language
    found = []
    for name, checkpoint in made.items():
        size = measure(checkpoint.path)
        scores = score.corpus_scores(texts[name], references, language, "report")
        against = score.compare(texts[name], texts["bf16"], references, language, "report", chosen=["BLEU"])
        found.append({
            "name": name,
            "tensor_bytes": size.tensor_bytes,
            "decoder_bits": round(8 * size.groups["decoder"].n_bytes / size.groups["decoder"].logical, 2),
            "bits": round(size.bits_per_weight or 0, 2),
            "scores": [one.as_json() for one in scores],
            "p": against[0].p_value,
            "same_as_bf16": sum(a == b for a, b in zip(texts[name], texts["bf16"], strict=True)),
            "vllm": _by_vllm(checkpoint, LAYOUTS[name].layout, sounds, references, language),
        })  # fmt: skip
    return found


def _made(name: str, task: _Task, clip: Samples) -> Checkpoint:
    source, out, prompt = Checkpoint.open(POCKET), task.folder / name, task.recipe.wording
    stage = LAYOUTS[name]
    if stage.n_calibration:
        stage = stage.model_copy(update={"calibration": task.calibration})
    return export.run(stage, source, out, clip=clip, prompt=prompt, training=task.training)


def _texts(name: str, checkpoint: Checkpoint, task: _Task) -> list[str]:
    network, processor = checkpoint.load_for_inference(torch.float32), checkpoint.load_processor()
    if LAYOUTS[name].layout in _LARGEST:
        round_activations(network, LAYOUTS[name].layout)
    with Progress(disable=True) as progress:
        heard = clips.prepare(network, processor, task.report, task.folder / "audio", progress)
    audio = [torch.from_numpy(heard.load(one.audio)).to(network.device, torch.float32) for one in task.report]
    return translate(network, processor, audio, task.recipe.wording, task.recipe.max_new_tokens)


def round_activations(network: Qwen2AudioForConditionalGeneration, layout: str) -> None:
    """Has the decoder's linear modules see their inputs as kernels for int8 or fp8 do: rounded, a scale for a token."""

    def rounded(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        del module
        (states,) = inputs
        scale = states.abs().amax(-1, keepdim=True).clamp(min=1e-10) / _LARGEST[layout]
        scaled = states / scale
        return (scale * (scaled.round() if layout == "int8" else scaled.to(torch.float8_e4m3fn).to(states.dtype)),)

    for module in decoder_layers(network).modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(rounded)


def _by_vllm(
    checkpoint: Checkpoint, layout: str, sounds: Sequence[Samples], references: Sequence[str], language: str
) -> dict[str, Any] | str:
    """How many of vLLM's texts are the embedded engine's, and what both score; or why there are none."""
    verdict = doctor.examine(checkpoint.path).engine("vllm")
    if not torch.cuda.is_available():
        if not doctor.runs_on_cpu(checkpoint.quantisation, vnni=has_vnni()):
            return f"only {verdict.where}"
        if layout in _TOO_SLOW_ON_CPU:
            return "too slow on a CPU"
    if layout not in schemes.LAYOUTS:
        return "see parity"
    if find_spec("vllm") is None or not sounds:
        return "not tried"
    requests = [(samples, language) for samples in sounds]
    plain, ours = ([one.text for one in translated(engine, checkpoint.path, requests)] for engine in _ENGINES)
    bleu = {
        engine: score.corpus_scores(texts, references[: len(texts)], language, "report", chosen=["BLEU"])[0].value
        for engine, texts in zip(_ENGINES, (plain, ours), strict=True)
    }
    return {"same": sum(a == b for a, b in zip(plain, ours, strict=True)), "of": len(ours), "bleu": bleu}


def _print(language: str, numbers: Sequence[dict[str, Any]]) -> None:
    names = [one["metric"] for one in numbers[0]["scores"]]
    columns = ("layout", "MB", "bits a weight", *names, "p", "as bf16", "vLLM")
    table = Table(*columns, title=f"layouts, {language}", title_justify="left")
    for one in numbers:
        values = [f"{each['value']:.2f} ({each['low']:.1f}–{each['high']:.1f})" for each in one["scores"]]
        size = (f"{one['tensor_bytes'] / 1e6:.1f}", f"{one['bits']:.2f}")
        table.add_row(one["name"], *size, *values, f"{one['p']:.2f}", str(one["same_as_bf16"]), vllm(one["vllm"]))
    Console(width=140).print(table)
