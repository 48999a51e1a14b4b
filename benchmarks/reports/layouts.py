"""The section of RESULTS.md on the layouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.reports.markdown import table
from benchmarks.rows import Row

FOUND: Final = ("layouts", "llm_compressor")  # what a row found; the rest are settings

_HEAD: Final = """\
## Layouts

The pocket model with its decoder in fewer bits: transformers translates the report split in fp32 from the numbers that
are stored, with activations rounded where a layout's kernels round them (`benchmarks/layouts.py`). In brackets are 95 %
bootstrap intervals; *p* is the chance of such a difference in BLEU from bf16 by luck alone; *as bf16* are texts equal
to those of bf16. vLLM has translated what its kernels compute rightly on the device of the row, in bf16; *the same* are
texts equal to those of the embedded engine, which computes with plain weights in fp32.
"""


def render(rows: Sequence[Row]) -> str:
    """The section.

    Args:
        rows: of `benchmarks.layouts`, at least one.
    """
    return "\n".join([_HEAD, *map(_language, rows)])


def _language(row: Row) -> str:
    metrics = [each["metric"] for each in row["layouts"][0]["scores"]]
    columns = ["layout", "MB", "bits a weight", "in the decoder", *metrics, "p", "as bf16", "vLLM"]
    title = (
        f"{row['language']}, {row['utterances']} utterances of {row['recipe']}, {row['calibration']} others for "
        f"calibration, llm-compressor {row['llm_compressor']}:\n"
    )
    return "\n".join([title, table(columns, [_line(one, row["utterances"]) for one in row["layouts"]]), ""])


def _line(one: dict[str, Any], n: int) -> list[str]:
    scores = [f"{each['value']:.2f} ({each['low']:.1f}–{each['high']:.1f})" for each in one["scores"]]
    plain = one["name"] == "bf16"
    return [
        one["name"],
        f"{one['tensor_bytes'] / 1e6:.1f}",
        f"{one['bits']:.2f}",
        f"{one['decoder_bits']:.2f}",
        *scores,
        "" if plain else f"{one['p']:.2f}",
        "" if plain else f"{one['same_as_bf16']} of {n}",
        vllm(one["vllm"]),
    ]


def vllm(found: dict[str, Any] | str) -> str:
    """What vLLM made of a layout."""
    if isinstance(found, str):
        return found
    return "{same} of {of} the same; BLEU {bleu[vllm]:.1f}, plain {bleu[transformers]:.1f}".format(**found)
