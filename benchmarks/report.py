"""`python -m benchmarks results`: RESULTS.md, written from the rows in `results/` and the paper's figures."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks import live_report, long_audio_report, paper_report, paper_tables, record, rows, soak_report
from benchmarks.markdown import table
from benchmarks.rows import Row
from benchmarks.search import COMPARED

PAGE: Final = record.RESULTS.with_name("RESULTS.md")

_HEAD: Final = """\
# Results

`make results` writes this page from the rows in `benchmarks/results` and the paper's figures in
`benchmarks/paper.yaml`. Of rows that measured the same, the last one counts.
"""
_SEARCH: Final = """\
## The layer search

All but `fast` choose the same layers with the same scores, as `benchmarks/search.py` explains; given is how many times
faster one is than another in the same process, over the rounds that both have run: the median of several repeats, the
lowest and the highest. The naive search is run once. *Decoded* counts translations.
"""
_FAST: Final = """\
### The approximate search

On several parts of the search split (`benchmarks/fast_search.py`): what it removes, what is left scores, and how many
times faster it is than the exact search.
"""
_FAST_NUMBERS: Final = ("searches", "same_layers", "of_layers", "same_searches", "mean_score_lost", "times_faster")
_ENCODER: Final = """\
## The encoder on valid frames

How many times faster the encoder is without the padding to 30 s, with the same result (`benchmarks/encoder.py`):
medians, and quartiles in brackets. *Work* is the ratio of multiply-adds.
"""
_BATCHING: Final = """\
## Several clients at once

Clips per second that the embedded engine translates for several clients at once, over those of one client, with the
same texts (`benchmarks/batching.py`): medians, and quartiles in brackets. *First text* is what a caller waits for it.
"""


_PARITY: Final = """\
## vLLM

Translations of the same clips by vLLM and by the embedded engine, both in fp32 on a CPU, but for nf4, which vLLM
computes in bf16: *same* are those with equal text and number of tokens (`benchmarks/parity.py`).
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the program's flags."""
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="default: benchmarks/RESULTS.md")


def run(options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """Writes the page; there are no rows to keep."""
    options.page.write_text(render(options.results), encoding="utf-8")
    print(options.page)
    return ()


def render(results: Path) -> str:
    """The page.

    Args:
        results: directory of the rows.
    """
    papers = rows.read(results / "paper.jsonl")
    search = rows.latest(rows.read(results / "search.jsonl"), "modes", "repeats")
    fast = rows.latest(rows.read(results / "fast-search.jsonl"), *_FAST_NUMBERS)
    encoder = rows.latest(rows.read(results / "encoder.jsonl"), "clips", "repeats")
    live = rows.latest(rows.read(results / "live.jsonl"), *live_report.RESULTS)
    batching = rows.latest(rows.read(results / "batching.jsonl"), "clients", "repeats")
    long_audio = rows.latest(rows.read(results / "long-audio.jsonl"), "before_mb", "recordings")
    soaks = rows.latest(rows.read(results / "soak.jsonl"), "seen")
    parities = rows.latest(rows.read(results / "parity.jsonl"), "checkpoints", "own_class")
    sections = [
        _HEAD,
        paper_report.render(paper_tables.load(), rows.by_stage(papers)),
        "\n".join([_SEARCH, *map(_searched, search)]) if search else "",
        "\n".join([_FAST, *map(_fast_searched, fast)]) if fast else "",
        "\n".join([_ENCODER, *map(_encoded, encoder)]) if encoder else "",
        "\n".join([_BATCHING, *map(_batched, batching)]) if batching else "",
        "\n".join([_PARITY, *map(_paired, parities)]) if parities else "",
        live_report.render(live),
        long_audio_report.render(long_audio) if long_audio else "",
        soak_report.render(soaks) if soaks else "",
        _circumstances(
            [
                *rows.by_stage(papers).values(),
                *search,
                *fast,
                *encoder,
                *batching,
                *parities,
                *live,
                *long_audio,
                *soaks,
            ]
        ),
    ]
    return "\n".join(section for section in sections if section)


def _searched(row: Row) -> str:
    modes = row["modes"]
    others = [name for name in COMPARED if name in modes]
    lines = [
        [
            mode,
            " ".join(map(str, one["removed"])),
            f"{one['scores'][-1]:.2f}",
            f"{one['decoded']:,} of {one['of']:,}",
            *("1" if other == mode else _spread(one["times_faster_than"][other]) for other in others),
        ]
        for mode, one in modes.items()
    ]
    title = f"{row['model']['name']}, {_domain(row)}, {row['utterances']} utterances:\n"
    columns = ["search", "removed", "score", "decoded", *(f"times faster than {other}" for other in others)]
    return "\n".join([title, table(columns, lines), ""])


def _fast_searched(row: Row) -> str:
    lines = [
        [
            paper_report.LANGUAGES[one["language"]],
            *(cell for mode in ("exact", "fast") for cell in _ended(one[mode])),
            f"{one['times_faster']:.2f}",
        ]
        for one in row["searches"]
    ]
    title = f"{row['model']['name']}, {row['domain']}, {row['utterances']} utterances a search:\n"
    summary = (
        f"\n{row['same_layers']} of {row['of_layers']} layers are the same, {row['same_searches']} of {len(lines)} "
        f"searches altogether; {row['mean_score_lost']:.2f} of score are lost in the mean. It is "
        "{median:.2f} times faster ({low:.2f}–{high:.2f}).".format(**row["times_faster"])
    )
    columns = ["language", "exact", "score", "fast", "score", "times faster"]
    return "\n".join([title, table(columns, lines), summary, ""])


def _ended(search: dict[str, Any]) -> tuple[str, str]:
    return " ".join(map(str, search["removed"])), f"{search['score']:.2f}"


def _encoded(row: Row) -> str:
    lines = [
        [
            f"{clip['clip_s']:g} s",
            f"{clip['work']:.2f}",
            *("{ratio:.2f} ({low:.2f}–{high:.2f})".format(**clip[stage]) for stage in ("encoder", "speech")),
            f"{clip['max_difference']:.0e}",
        ]
        for clip in row["clips"]
    ]
    title = f"{row['model']['name']} on {row['device']}, {row['dtype']}, {row['repeats']} repeats:\n"
    return "\n".join([title, table(["clip", "work", "encoder", "with mel", "largest difference"], lines), ""])


def _batched(row: Row) -> str:
    lines = [
        [
            str(one["clients"]),
            _spread(one["ratio"]),
            f"{one['clips_per_s']:.2f}",
            *(f"{one['first_text_s'][name]:.3f} s" for name in ("p50", "p95")),
        ]
        for one in row["clients"]
    ]
    title = f"{row['model']['name']} on {row['device']}, {row['requests']} requests, {row['repeats']} repeats:\n"
    columns = ["clients", "times the throughput of one", "clips / s", "first text, p50", "p95"]
    return "\n".join([title, table(columns, lines), ""])


def _paired(row: Row) -> str:
    lines = [
        [one["name"], f"{one['bytes'] / 1e6:.1f}", f"{one['same']} of {one['translations']}"]
        for one in row["checkpoints"]
    ]
    own = row["own_class"]
    waits = (
        "\nvLLM's own class of the model encodes the padding: the first text comes "
        f"{_spread(own['first_text'])} times later, the last {_spread(own['total'])} times; "
        f"{own['same']} of {own['of']} texts are the same."
        if own
        else ""
    )
    title = f"{row['clips']} clips, domain {row['domain']}:\n"
    return "\n".join([title, table(["checkpoint", "MB", "same"], lines), waits, ""])


def _spread(ratio: dict[str, float] | float) -> str:
    return "{median:.2f} ({low:.2f}–{high:.2f})".format(**ratio) if isinstance(ratio, dict) else f"{ratio:.2f}"


def _domain(row: Row) -> str:
    return f"{row['domain']} into {paper_report.LANGUAGES[row['language']]}"


def _circumstances(shown: list[Row]) -> str:
    """With what the rows above were measured, one line each combination."""
    lines = dict.fromkeys(
        f"- `{row['command'].partition(' --')[0]}` at {row['commit'] or 'no commit'}: {_machine(row)}" for row in shown
    )
    return "\n".join(["## Measured with\n", *lines, ""]) if lines else ""


def _machine(row: Row) -> str:
    machine = row["machine"]
    hardware = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    return f"{hardware}; " + ", ".join(f"{name} {version}" for name, version in row["versions"].items())
