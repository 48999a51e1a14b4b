"""`python -m benchmarks load`: what the server gives many callers, how soon, and when it begins to refuse.

*Closed loop*: so many callers, each of whom waits for an answer before the next call.  It shows what the machine can
do: throughput grows until the processor is busy, and from there on more callers only wait longer.  As nobody calls
while he waits, it never shows an overload.  *Open loop*: calls come at random (a Poisson process), whether or not
earlier ones are answered, as those of strangers do.  Rates are shares of the highest throughput of the closed loop
in the same run: below it waiting times stay finite, and grow as 1 / (1 - share) at best; above it any queue grows
without end, so that a server has to refuse.

*Goodput* are answers that meet the objective: first text within a second, and the end before the recording could have
been played twice.  *RTFx* are seconds of audio translated a second.  *Formats*: the same sentences as 16 kHz wav and
as 48 kHz stereo mp3, which has to be decoded and resampled first.

How.  There are two servers, one of them idle: that of the closed loop has more places than callers, and that of the
open loop refuses callers when it is full.  Closed-loop passes are repeated in turning order, and ratios taken repeat by
repeat.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import spread
from benchmarks.traffic import recordings
from benchmarks.traffic.callers import Answer, Bout, Callers, calling
from benchmarks.traffic.recordings import Format, Recording
from benchmarks.traffic.server_process import serving, starting
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import RecipeError

CLIENTS: Final = (1, 2, 4, 8, 16, 32)
SHARES: Final = (0.5, 0.8, 1.0, 1.5)
RECORDINGS: Final = 24
REPEATS: Final = 3
FIRST_TEXT_S: Final = 1.0
LENGTHS: Final = 2.0
PLACES: Final = 16  # in the open loop
_FORMAT_CLIENTS: Final = 8  # or the nearest that is measured


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's flags."""
    parser.add_argument("--model", type=Path, default=POCKET, metavar="DIR", help="checkpoint (default: pocket)")
    clients = " ".join(map(str, CLIENTS))
    parser.add_argument(
        "--clients", type=int, nargs="+", default=CLIENTS, metavar="N", help=f"at once (default: {clients})"
    )
    shares = " ".join(map(str, SHARES))
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        default=SHARES,
        metavar="X",
        help=f"calls in the open loop, as shares of what the closed loop reaches (default: {shares})",
    )
    parser.add_argument(
        "--recordings", type=int, default=RECORDINGS, metavar="N", help=f"a pass (default: {RECORDINGS})"
    )
    parser.add_argument("--repeats", type=int, default=REPEATS, metavar="N", help=f"of a pass (default: {REPEATS})")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints tables, and returns the numbers.

    Raises:
        RecipeError: a flag's value cannot be meant, the server does not start, or a call fails.
    """
    if min(*options.clients, *options.shares, options.recordings, options.repeats) <= 0:
        raise RecipeError("--clients, --shares, --recordings and --repeats must be more than 0")
    checkpoint = Checkpoint.open(options.model)
    places = (max(64, *options.clients), PLACES)
    with (
        starting([serving(checkpoint.path, "--max-requests", str(one)) for one in places]) as (wide, narrow),
        Progress() as progress,
    ):
        load = Load(checkpoint, options.recordings, options.repeats, progress)
        wide_url, narrow_url = wide.result().url, narrow.result().url
        closed, formats = asyncio.run(load.closed(wide_url, options.clients))
        best_per_s = max(one["per_s"] for one in closed)
        opened = asyncio.run(load.opened(narrow_url, options.shares, best_per_s))
    numbers = {"closed": closed, "formats": formats, "open": opened}
    _print(numbers, f"{checkpoint.name}, {options.recordings} recordings, {options.repeats} repeats")
    return {
        "model": {"name": checkpoint.name, "bytes": checkpoint.n_bytes},
        "recordings": options.recordings,
        "repeats": options.repeats,
        "places": PLACES,
        "objective": {"first_text_s": FIRST_TEXT_S, "lengths": LENGTHS},
        **numbers,
    }


class Load:
    """All passes of one model over the same recordings."""

    def __init__(self, checkpoint: Checkpoint, n_recordings: int, repeats: int, progress: Progress) -> None:
        self._checkpoint = checkpoint
        self._sent: dict[Format, list[Recording]] = {
            one: recordings.single(n_recordings, audio_format=one) for one in get_args(Format)
        }
        self._repeats = repeats
        self._progress = progress

    async def closed(self, url: str, clients: Sequence[int]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """What so many callers at once get, and what a format costs."""
        passes: list[dict[int, Bout]] = []
        mp3: list[Bout] = []
        n_mp3 = min(clients, key=lambda n: abs(n - _FORMAT_CLIENTS))
        task = self._progress.add_task("closed loop", total=self._repeats * (len(clients) + 1))
        async with calling(url) as callers:
            await self._pass(callers, "wav", 1, self._sent["wav"][:2])
            for number in range(self._repeats):
                found = {}
                for n_clients in clients if number % 2 else reversed(clients):
                    found[n_clients] = await self._pass(callers, "wav", n_clients)
                    self._progress.advance(task)
                    if n_clients == n_mp3:
                        mp3.append(await self._pass(callers, "mp3", n_mp3))
                        self._progress.advance(task)
                passes.append(found)
        dear = spread.ratios([one.per_s for one in mp3], [one[n_mp3].per_s for one in passes])
        listed = [_closed([one[n] for one in passes], [one[clients[0]] for one in passes], n) for n in clients]
        return listed, {"clients": n_mp3, "mp3_to_wav": dear}

    async def opened(self, url: str, shares: Sequence[float], best_per_s: float) -> list[dict[str, Any]]:
        """What strangers get who call at these shares of the highest throughput."""
        found = []
        task = self._progress.add_task("open loop", total=len(shares) * self._repeats)
        async with calling(url) as callers:
            await self._pass(callers, "wav", 1, self._sent["wav"][:2])
            for share in shares:
                # fewer where they come more slowly, so that all shares take about as long
                sent = self._sent["wav"][: max(1, round(min(1.0, share) * len(self._sent["wav"])))]
                bouts = []
                for seed in range(self._repeats):
                    bouts.append(await callers.open_loop(sent, self._checkpoint.name, share * best_per_s, seed))
                    self._progress.advance(task)
                found.append({"share": share, **_opened(bouts)})
        return found

    async def _pass(
        self, callers: Callers, audio_format: Format, n_clients: int, sent: Sequence[Recording] | None = None
    ) -> Bout:
        return await callers.closed_loop(sent or self._sent[audio_format], self._checkpoint.name, n_clients)


def _closed(bouts: Sequence[Bout], base: Sequence[Bout], n_clients: int) -> dict[str, Any]:
    return {
        "clients": n_clients,
        "to_first": spread.ratios([one.per_s for one in bouts], [one.per_s for one in base]),
        "per_s": round(max(one.per_s for one in bouts), 3),
        "rtfx": spread.quartiles([one.audio_per_s for one in bouts]),
        **_waits(bouts),
    }


def _opened(bouts: Sequence[Bout]) -> dict[str, Any]:
    calls = [answer for bout in bouts for answer in bout.answers]
    return {
        "calls": len(calls),
        "refused": sum(one.text is None for one in calls),
        "per_s": round(sum(len(one.translated) for one in bouts) / sum(one.took_s for one in bouts), 3),
        "rtfx": spread.quartiles([one.audio_per_s for one in bouts]),
        **_waits(bouts),
    }


def _waits(bouts: Sequence[Bout]) -> dict[str, Any]:
    answers = [answer for bout in bouts for answer in bout.answers]
    translated = [one for one in answers if one.text is not None]
    return {
        "goodput": round(sum(map(_meets_the_objective, answers)) / len(answers), 3),
        "first_text_s": spread.tails([one.first_text_s for one in translated if one.first_text_s is not None]),
        "total_s": spread.tails([one.total_s for one in translated]),
    }


def _meets_the_objective(answer: Answer) -> bool:
    return (
        answer.first_text_s is not None
        and answer.first_text_s <= FIRST_TEXT_S
        and answer.total_s <= LENGTHS * answer.recording.seconds
    )


def _print(numbers: Mapping[str, Any], title: str) -> None:
    console = Console(width=120)
    table = Table("callers", "throughput", "RTFx", "first text, p50, p95", "goodput", title=title, title_justify="left")
    for one in numbers["closed"]:
        table.add_row(
            str(one["clients"]), spread.shown(one["to_first"]), f"{one['rtfx']['median']:.1f}", *_shown_waits(one)
        )
    console.print(table)
    table = Table("calls, share of the best", "refused", "RTFx", "first text, p50, p95", "goodput")
    for one in numbers["open"]:
        cells = [f"{one['share']:g}", f"{one['refused']} of {one['calls']}", f"{one['rtfx']['median']:.1f}"]
        table.add_row(*cells, *_shown_waits(one))
    console.print(table)
    console.print(f"mp3: {spread.shown(numbers['formats']['mp3_to_wav'])} times the throughput of wav")


def _shown_waits(one: Mapping[str, Any]) -> tuple[str, str]:
    return "{p50:.2f}, {p95:.2f} s".format(**one["first_text_s"]), f"{one['goodput']:.0%}"
