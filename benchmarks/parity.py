"""`.venv-vllm/bin/python -m benchmarks parity`: vLLM says what the embedded engine says, for each form of checkpoint.

The pocket corpus' report clips, each into every language that a checkpoint was made for, by both engines in fp32,
greedily, one clip after the other; but nf4 by vLLM in bf16, as its loader knows nothing else.  *Same* are translations
whose text and number of tokens are equal.  Rounding differs between two implementations, so a near-tie between two
words may fall the other way, and more of them do in bf16; anything else is an error.

The pocket model also runs in vLLM's own class of Qwen2-Audio, which encodes each clip padded to 30 s: how much longer
its callers wait for their first text, and for the last.  What to expect: a pocket clip of 3 s is a tenth of the
window, and its encoder does most of the work until the first token.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import forms, spread
from benchmarks.traffic.listening import Said, said
from compress import dataset
from compress.audio import Samples
from compress.checkpoint import Checkpoint
from compress.errors import RecipeError
from compress.prompt import LANGUAGES
from compress.recipe import Data
from serve.engine import Request, Translator

CLIPS: Final = 50
_DOMAIN: Final = "daily"
_FORMS: Final[dict[str, forms.Make]] = {
    "pocket": forms.pocket,
    "pruned": forms.without(5, 8),
    "merged": forms.merged,
    "nf4": forms.nf4_decoder,
}
_MAX_NEW_TOKENS: Final = 120
# plugins that vLLM loads when its own class is to be used
_WITHOUT_OURS: Final = {"VLLM_PLUGINS": "bitsandbytes"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--clips", type=int, default=CLIPS, metavar="N", help=f"default: {CLIPS}")
    parser.add_argument("--checkpoints", nargs="+", choices=list(_FORMS), default=list(_FORMS), help="default: all")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints tables, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, or vLLM is not installed here.
    """
    if options.clips < 1:
        raise RecipeError("--clips must be at least 1")
    if find_spec("vllm") is None:
        raise RecipeError("vLLM is not installed here: `make vllm`, then .venv-vllm/bin/python -m benchmarks parity")
    data = Data(source="pocket", domain=_DOMAIN, n_report=max(1, options.clips // 2))
    # a split has as many sentences again by voices that were never heard in training
    utterances = dataset.load(data, "de", "report").utterances[: options.clips]
    clips = [one.audio.load() for one in utterances]
    numbers, own_class = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.checkpoints:
            checkpoint = _FORMS[name](Path(folder) / name)
            languages = [checkpoint.lineage["language"]] if "language" in checkpoint.lineage else list(LANGUAGES)
            requests = [(samples, code) for code in languages for samples in clips]
            embedded, ours = (translated(engine, checkpoint.path, requests) for engine in ("transformers", "vllm"))
            numbers.append(_compared(name, checkpoint, embedded, ours))
            if name == "pocket":
                stock = translated("vllm", checkpoint.path, requests, _WITHOUT_OURS)
                own_class = _waits(stock, ours) | {"same": _n_same(stock, ours), "of": len(ours)}
    _print(numbers, own_class)
    return {"clips": len(clips), "domain": _DOMAIN, "checkpoints": numbers, "own_class": own_class}


def translated(
    engine: str, checkpoint: Path, requests: Sequence[tuple[Samples, str]], environment: Mapping[str, str] | None = None
) -> list[Said]:
    """What an engine makes of clips, in a process of its own: vLLM loads its plugins once in each."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(_translate, engine, checkpoint, requests, environment or {}).result()


def _translate(
    engine: str, directory: Path, requests: Sequence[tuple[Samples, str]], environment: Mapping[str, str]
) -> list[Said]:
    os.environ.update(environment)  # before vLLM is imported, and for the processes that it starts
    checkpoint = Checkpoint.open(directory)
    return asyncio.run(_all(_engine(engine, checkpoint), checkpoint.name, requests))


def _engine(name: str, checkpoint: Checkpoint) -> Translator:
    if name == "vllm":
        from serve.engines.vllm_engine import VllmEngine

        return VllmEngine([checkpoint], max_new_tokens=_MAX_NEW_TOKENS)
    from serve.engines.transformers_engine import TransformersEngine

    return TransformersEngine([checkpoint], "cpu", max_new_tokens=_MAX_NEW_TOKENS)


async def _all(engine: Translator, name: str, requests: Sequence[tuple[Samples, str]]) -> list[Said]:
    await engine.start()
    try:
        return [await said(engine, Request(name, samples, code)) for samples, code in requests]
    finally:
        await engine.close()


def _compared(name: str, checkpoint: Checkpoint, embedded: Sequence[Said], ours: Sequence[Said]) -> dict[str, Any]:
    return {
        "name": name,
        "bytes": checkpoint.n_bytes,
        "translations": len(ours),
        "same": _n_same(embedded, ours),
        "tokens": sum(one.n_tokens for one in ours),
    }


def _n_same(some: Sequence[Said], others: Sequence[Said]) -> int:
    return sum((a.text, a.n_tokens) == (b.text, b.n_tokens) for a, b in zip(some, others, strict=True))


def _waits(slow: Sequence[Said], fast: Sequence[Said]) -> dict[str, dict[str, float]]:
    """How many times longer one waits, clip by clip: median and quartiles."""
    found = {}
    for name in ("first_text_s", "total_s"):
        ratios = [getattr(a, name) / getattr(b, name) for a, b in zip(slow, fast, strict=True)]
        found[name.removesuffix("_s")] = spread.quartiles(ratios, 2)
    return found


def _print(numbers: Sequence[dict[str, Any]], own_class: dict[str, Any]) -> None:
    table = Table("checkpoint", "MB", "same", title="vLLM and the embedded engine", title_justify="left")
    for one in numbers:
        table.add_row(one["name"], f"{one['bytes'] / 1e6:.1f}", f"{one['same']} of {one['translations']}")
    console = Console(width=120)
    console.print(table)
    if own_class:
        first, total = (spread.shown(own_class[name]) for name in ("first_text", "total"))
        console.print(
            f"vLLM's own class: {own_class['same']} of {own_class['of']} the same; "
            f"first text {first} times later, last text {total} times later"
        )
