"""Where a benchmark computes."""

from __future__ import annotations

import argparse
from typing import Literal

import torch

from compress.errors import RecipeError


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--device`."""
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")


def chosen(asked: str) -> Literal["cpu", "cuda"]:
    """The device that a value of the flag means on this machine.

    Raises:
        RecipeError: it is not there.
    """
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise RecipeError("--device cuda was asked for, but there is no CUDA device")
    return "cuda" if asked != "cpu" and there else "cpu"
