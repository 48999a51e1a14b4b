"""What `benchmarks gpu` measures of one model: each part takes a `Bench` and gives lines of numbers."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from transformers.generation.streamers import BaseStreamer

from benchmarks import encoder as encoder_benchmark
from benchmarks.roofs import Roofs
from benchmarks.search import scorer_of
from benchmarks.spread import quartiles
from benchmarks.true_size.bench import Bench
from benchmarks.true_size.model import n_weight_bytes
from compress.audio import SAMPLE_RATE, Samples
from compress.decoding import Decoding, encode, log_mel
from compress.model import decoder_layers
from compress.prompt import translation
from compress.recipe_stages import Prune
from compress.search.bench import Bench as SearchBench
from compress.search.bench import Exam
from compress.search.bench import encode as encode_each
from compress.search.single import generate

Lines = list[dict[str, Any]]

_PROMPT: Final = translation("de")
# one round of the search: how many candidates a way is timed on, as it takes as long for each; None is all of them
_CANDIDATES: Final = {"naive": 2, "plain": 4, "batched": 4, "shared": None}
_REFERENCE: Final = "Das Protokoll wird morgen in der Sitzung besprochen."


@dataclass(frozen=True)
class _Run:
    """When a translation's first token was there, and its last, in seconds."""

    first_s: float
    total_s: float


def footprint(bench: Bench) -> Lines:
    """Bytes of the weights, and device memory at most while a whole window is translated."""
    lines: Lines = []
    for n_layers in bench.size.layers:
        with bench.kept(n_layers) as aside:
            held = n_weight_bytes([bench.model])
            bench.forget_peak()
            _ours(bench, noise(max(bench.size.clips_s)))
            lines.append({"layers": n_layers, "weight_bytes": held, "peak_bytes": bench.peak_bytes(aside)})
    return lines


def latency(bench: Bench) -> Lines:
    """One clip after the other, by this package's decoding and as published: `generate` on audio padded to 30 s."""
    ways: dict[str, Callable[[Bench, Samples], _Run]] = {"ours": _ours, "published": _published}
    clips = {clip_s: noise(clip_s) for clip_s in bench.size.clips_s}
    runs: dict[tuple[str, float, int], list[_Run]] = {}
    step_bytes = {}
    for repeat in range(bench.size.repeats + 1):
        for n_layers in bench.size.layers if repeat % 2 else reversed(bench.size.layers):
            with bench.kept(n_layers):
                step_bytes[n_layers] = bench.decoder_bytes()
                for way, translate in ways.items():
                    for clip_s, clip in clips.items():
                        one = translate(bench, clip)
                        if repeat:  # the first only warms up
                            runs.setdefault((way, clip_s, n_layers), []).append(one)
    bandwidth = Roofs(bench.device).bandwidth()
    lines = []
    for (way, clip_s, n_layers), mine in sorted(runs.items(), key=lambda item: (item[0][:2], -item[0][2])):
        whole = runs[way, clip_s, bench.size.layers[0]]
        token_s = statistics.median((one.total_s - one.first_s) / (bench.size.new_tokens - 1) for one in mine)
        lines.append({
            "way": way,
            "clip_s": clip_s,
            "layers": n_layers,
            "first_ms": round(1e3 * statistics.median(one.first_s for one in mine), 2),
            "token_ms": round(1e3 * token_s, 3),
            "total_ms": round(1e3 * statistics.median(one.total_s for one in mine), 2),
            "times_as_fast": quartiles([a.total_s / b.total_s for a, b in zip(whole, mine, strict=True)]),
            "speed_of_light": round(step_bytes[n_layers] / bandwidth / token_s, 4),
        })  # fmt: skip
    return lines


def batch(bench: Bench) -> Lines:
    """Clips decoded together, more and more of them until memory is full."""
    lines: Lines = []
    clip = noise(min(bench.size.clips_s))
    for n_layers in bench.size.layers:
        with bench.kept(n_layers) as aside:
            for n_rows in bench.size.rows:
                bench.forget_peak()
                try:
                    _batched(bench, [clip] * n_rows)  # warms up
                    run, steps_s = _batched(bench, [clip] * n_rows)
                except torch.OutOfMemoryError:
                    lines.append({"layers": n_layers, "rows": n_rows, "out_of_memory": True})
                    break
                step_s = statistics.median(steps_s)
                lines.append({
                    "layers": n_layers,
                    "rows": n_rows,
                    "first_ms": round(1e3 * run.first_s, 2),
                    "step_ms": round(1e3 * step_s, 3),
                    "tokens_per_s": round(n_rows / step_s, 1),
                    "clips_per_s": round(n_rows / run.total_s, 2),
                    "peak_bytes": bench.peak_bytes(aside),
                })  # fmt: skip
    return lines


def encoder(bench: Bench) -> Lines:
    """The encoder on valid frames against the padded window, as `benchmarks encoder` measures it."""
    return encoder_benchmark.compare(bench.model, bench.processor, bench.size.clips_s, bench.size.repeats)


def search(bench: Bench) -> Lines:
    """One round of the layer search, by candidate: as published, batched, and with work that candidates share.

    Nobody is given up: with random weights no candidate translates better than another.
    """
    clips = [noise(min(bench.size.clips_s), seed) for seed in range(bench.size.utterances)]
    n = len(clips)
    exam = Exam(_PROMPT, bench.size.new_tokens, clips, [_REFERENCE] * n, [""] * n, "de")
    audio = encode_each(bench.model, bench.processor, clips)
    table = SearchBench(bench.model, bench.processor, exam, audio, lambda n: None)
    open_ = list(range(1, len(decoder_layers(bench.model)) - 1))
    lines: Lines = []
    for way, n_candidates in _CANDIDATES.items():
        candidates = open_[:n_candidates]
        scorer = scorer_of(way, table, Prune(n_remove=1))
        started = time.perf_counter()
        n_scored = sum(found.score is not None for found in scorer.evaluate((), candidates, {}, None))
        candidate_s = (time.perf_counter() - started) / n_scored
        naive_s = lines[0]["candidate_s"] if lines else candidate_s
        lines.append({
            "way": way,
            "candidates": n_scored,
            "candidate_s": round(candidate_s, 4),
            "times_as_fast": round(naive_s / candidate_s, 2),
        })  # fmt: skip
    return lines


# in the order in which they are measured
PARTS: Final[dict[str, Callable[[Bench], Lines]]] = {
    "latency": latency,
    "footprint": footprint,
    "batch": batch,
    "encoder": encoder,
    "search": search,
}


def noise(clip_s: float, seed: int = 0) -> Samples:
    """Sound of so many seconds, shape (n_samples,): what is heard does not change what it costs."""
    return np.random.default_rng(seed).normal(0, 0.1, round(clip_s * SAMPLE_RATE)).astype(np.float32)


def _ours(bench: Bench, clip: Samples) -> _Run:
    return _batched(bench, [clip])[0]


def _batched(bench: Bench, clips: Sequence[Samples]) -> tuple[_Run, list[float]]:
    """As the embedded engine and every stage decode, and the time of each step behind the first."""
    started = time.perf_counter()
    with torch.inference_mode():
        audio = encode(bench.model, log_mel(bench.processor, clips))
    decoding = Decoding(bench.model, bench.processor, audio, [_PROMPT] * len(clips), bench.size.new_tokens)
    done_s: list[float] = []
    while decoding.rows:
        decoding.step()  # gives token ids, so the device is done
        done_s.append(time.perf_counter() - started)
    if len(done_s) != bench.size.new_tokens:
        raise AssertionError(f"{len(done_s)} tokens were decoded, not {bench.size.new_tokens}")
    return _Run(done_s[0], done_s[-1]), [b - a for a, b in itertools.pairwise(done_s)]


def _published(bench: Bench, clip: Samples) -> _Run:
    """As the paper's code decodes."""
    clock = _Clock()
    model, processor = bench.model, bench.processor
    inputs = processor(text=_PROMPT.text, audio=[clip], sampling_rate=SAMPLE_RATE, return_tensors="pt")
    generate(model, processor, bench.size.new_tokens, **inputs.to(model.device, model.dtype), streamer=clock)
    # it is given the prompt first
    first, *rest = clock.given_s[1:]
    if len(rest) != bench.size.new_tokens - 1:
        raise AssertionError(f"{len(rest) + 1} tokens were generated, not {bench.size.new_tokens}")
    return _Run(first - clock.started, rest[-1] - clock.started)


class _Clock(BaseStreamer):
    """Notes when tokens come."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.given_s: list[float] = []

    def put(self, value: object) -> None:
        """What `generate` calls with the prompt, then with each token."""
        del value
        self.given_s.append(time.perf_counter())

    def end(self) -> None:
        """What `generate` calls at the end."""
