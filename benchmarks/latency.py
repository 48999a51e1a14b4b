"""`python -m benchmarks latency`: what one caller waits for, by length of the recording and form of the model.

One server holds all forms; with `--engine vllm` each has one, as vLLM holds one model, and all compute in bf16.  A
caller sends a recording, reads the stream to its end, and sends the next one; all forms get the same recording before
the next one's turn, in turning order, so that a machine busy with something else slows all alike.  Of every form and
length: the time to the first text, the time between two tokens after it, the time to the end, and the real-time
factor, which is that over the length of the recording.

What to expect.  Before the first text the server decodes the file, looks for speech, encodes it and reads the prompt:
work that grows with the recording, of which a pruned decoder saves its share of the last part only.  Each token then
reads all weights of the decoder once, so that its time falls with the layers: without a quarter of them to three
quarters, and a fixed rest (the event loop, sampling, the layer-free ends of the model).  4-bit weights that
are unpacked for each use (nf4) are slower on a CPU, not faster.  w4a16 and int8 are for vLLM's kernels, and timed on
vLLM only: the embedded engine makes them plain when it loads them.  Recordings beyond a few
seconds hold several sentences, which are translated one after the other and overlap; the first text then comes after
the first of them.

How.  Ratios are taken recording by recording to the first form, and their median and quartiles are given.  The pruned
models were not trained again: what they say is nonsense and its length is its own, so compare times between tokens
rather than times to the end.  Percentiles are of all recordings of a length, of which there are fewer the longer it is.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import forms, spread
from benchmarks.traffic import recordings
from benchmarks.traffic.callers import Answer, calling
from benchmarks.traffic.recordings import Recording
from benchmarks.traffic.server_process import VLLM, ServerProcess, serving, starting
from compress.checkpoint import Checkpoint
from compress.errors import RecipeError

Engine = Literal["transformers", "vllm"]

SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
RECORDINGS: Final = 8
FEWEST: Final = 4
_SHORT_S: Final = 5.0
_TO: Final = "de"
# of itself the engine takes fp32 for plain weights on a CPU, and bf16 where they are quantised
_ON_VLLM: Final = ("--engine", "vllm", "--vllm-args", '{"dtype": "bfloat16"}')
_PLAIN: Final[dict[str, forms.Make]] = {
    "pocket": forms.pocket,
    "9-of-12-layers": forms.without(5, 6, 7),
    "6-of-12-layers": forms.without(3, 4, 5, 6, 7, 8),
    "student-merged": forms.merged,
}
# that an engine computes as they are stored
_FORMS: Final[dict[Engine, dict[str, forms.Make]]] = {
    "transformers": {**_PLAIN, "student-qlora": forms.student},
    "vllm": {**_PLAIN, "w4a16": forms.quantised("w4a16"), "int8": forms.quantised("int8")},
}
# what is compared between forms, and how a caller would call it
MEASURED: Final = {"first_text_s": "first text", "token_s": "between tokens", "total_s": "whole text"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--engine", choices=list(_FORMS), default="transformers", help="default: transformers")
    named = "; ".join(f"{engine}: {', '.join(there)}" for engine, there in _FORMS.items())
    parser.add_argument("--forms", nargs="+", metavar="FORM", help=f"default: all that the engine has ({named})")
    seconds = " ".join(f"{one:g}" for one in SECONDS)
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=SECONDS, metavar="S", help=f"of each recording (default: {seconds})"
    )
    parser.add_argument(
        "--recordings",
        type=int,
        default=RECORDINGS,
        metavar="N",
        help=f"of each length up to {_SHORT_S:g} s, and as many seconds of others, but {FEWEST} at least "
        f"(default: {RECORDINGS})",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints a table, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, or the server does not start, or fails.
    """
    if min(options.seconds) <= 0 or options.recordings < 1:
        raise RecipeError("each of --seconds must be more than 0, and --recordings at least 1")
    there = _FORMS[options.engine]
    names = options.forms or list(there)
    if unknown := [name for name in names if name not in there]:
        raise RecipeError(f"engine {options.engine} has no form {unknown[0]}: choose from {', '.join(there)}")
    if options.engine == "vllm" and not VLLM.is_file():
        raise RecipeError("engine vllm needs an environment of its own: run `make vllm`")
    with TemporaryDirectory() as folder:
        models = {name: there[name](Path(folder) / name) for name in names}
        with starting(_servers(options.engine, models)) as servers:
            numbers = {seconds: how_many(seconds, options.recordings) for seconds in options.seconds}
            sent = {seconds: recordings.of_length(seconds, n + 1, _TO) for seconds, n in numbers.items()}
            found = asyncio.run(_measure([one.result().url for one in servers], models, sent))
        lengths = [_length(seconds, answers, names) for seconds, answers in found.items()]
        described = [{"name": name, "bytes": one.n_bytes} for name, one in models.items()]
    _print(lengths, f"one caller, engine {options.engine}")
    return {
        "engine": options.engine,
        "language": _TO,
        "recordings": options.recordings,
        "forms": described,
        "lengths": lengths,
    }


def how_many(seconds: float, n: int) -> int:
    """Recordings of a length: n of a short one, of others as many as last as long together, but not too few."""
    return min(n, max(FEWEST, round(n * min(1.0, _SHORT_S / seconds))))


def _servers(engine: Engine, models: Mapping[str, Checkpoint]) -> list[AbstractContextManager[ServerProcess]]:
    """One for all forms, or one for each."""
    paths = [one.path for one in models.values()]
    if engine == "vllm":
        return [serving(path, *_ON_VLLM, python=VLLM) for path in paths]
    more = [flag for path in paths[1:] for flag in ("--model", str(path))]
    return [serving(paths[0], *more)]


async def _measure(
    urls: Sequence[str], models: Mapping[str, Checkpoint], sent: Mapping[float, Sequence[Recording]]
) -> dict[float, dict[str, list[Answer]]]:
    """Answers by length and form, in the order of the recordings, the first of which only warms up."""
    found: dict[float, dict[str, list[Answer]]] = {length: {name: [] for name in models} for length in sent}
    async with AsyncExitStack() as stack:
        # to as many servers as there are, or all to the only one
        callers = [await stack.enter_async_context(calling(url)) for url in urls]
        asked = dict(zip(models, itertools.cycle(callers), strict=False))
        with Progress() as progress:
            task = progress.add_task("recordings", total=sum(map(len, sent.values())))
            for length, (warm, *others) in sent.items():
                for name, model in models.items():
                    await asked[name].call(warm, model.name)
                progress.advance(task)
                for number, recording in enumerate(others):
                    turn = number % len(models)
                    for name in [*models][turn:] + [*models][:turn]:
                        found[length][name].append(await asked[name].call(recording, models[name].name))
                    progress.advance(task)
    return found


def _length(seconds: float, answers: Mapping[str, Sequence[Answer]], names: Sequence[str]) -> dict[str, Any]:
    """What the row keeps of a length."""
    base = [_times(one) for one in answers[names[0]]]
    listed = []
    for name in names:
        mine = [_times(one) for one in answers[name]]
        listed.append(
            {
                "form": name,
                "real_time_factor": spread.tails([one.total_s / seconds for one in answers[name]]),
                "tokens": sum(one.n_tokens for one in answers[name]),
                **{key: spread.tails(found) for key in MEASURED if (found := _values(mine, key))},
                "to_first": {
                    key: spread.quartiles(pairs)
                    for key in MEASURED
                    if (pairs := [a[key] / b[key] for a, b in zip(mine, base, strict=True) if key in a and key in b])
                },
            }
        )
    return {"seconds": seconds, "recordings": len(base), "forms": listed}


def _values(times: Sequence[Mapping[str, float]], key: str) -> list[float]:
    return [one[key] for one in times if key in one]


def _times(answer: Answer) -> dict[str, float]:
    """A call's times in seconds; of a recording in which nothing was heard, only how long that took."""
    times = {"total_s": answer.total_s}
    if answer.first_text_s is not None:
        times["first_text_s"] = answer.first_text_s
        if answer.n_tokens > 1:
            times["token_s"] = (answer.total_s - answer.first_text_s) / (answer.n_tokens - 1)
    return times


def _print(lengths: Sequence[Mapping[str, Any]], title: str) -> None:
    columns = ["recording", "form", *(f"{name}, times the first's" for name in MEASURED.values()), "real-time factor"]
    table = Table(*columns, title=title, title_justify="left")
    for length in lengths:
        for one in length["forms"]:
            cells = [spread.shown(one["to_first"][key]) if key in one["to_first"] else "–" for key in MEASURED]
            table.add_row(f"{length['seconds']:g} s", one["form"], *cells, f"{one['real_time_factor']['p50']:.3f}")
    Console(width=140).print(table)
