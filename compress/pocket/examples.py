"""`python -m compress.pocket.examples DIR`: the example clips of the page, as 16 kHz mono FLAC.

Two a domain from the report split, so the model has seen none of these sentences: one by a voice it
was trained on, one by a voice it was not.  Rerun it when a grammar has changed one of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import soundfile

from compress.audio import SAMPLE_RATE
from compress.errors import KompaktError, RecipeError
from compress.pocket import speech
from compress.pocket.corpus import Clip, evaluation_clips
from compress.pocket.recipe import PocketRecipe
from compress.pocket.sound import speak_repeatably

# file name: what is said
EXAMPLES: Final = {
    "daily_bed_sheets": "Please bring four more bed sheets to room nine.",
    "daily_potato_pancakes": "Next Saturday my husband is going to make potato pancakes for seven guests.",
    "phone_gate_change": "Flight seven four nine to Sydney will now depart from gate sixty at half past six.",
    "phone_car_repair": "In June, we will debit five hundred euros from your account for your car repair.",
    "talks_no_parser": "Unlike previous work, our retrieval model does not need a parser.",
    "talks_welsh_podcasts": "Our corpus contains seventy podcasts in Welsh.",
}


def examples() -> dict[str, Clip]:
    """The chosen clips by file name.

    Raises:
        RecipeError: names the sentences that are not in the report split (any more).
    """
    spoken = {clip.en: clip for clip in evaluation_clips("report", PocketRecipe().n_per_stratum)}
    if missing := [sentence for sentence in EXAMPLES.values() if sentence not in spoken]:
        raise RecipeError(f"not in the report split, choose others: {'; '.join(missing)}")
    return {name: spoken[sentence] for name, sentence in EXAMPLES.items()}


def write(clip: Clip, path: Path) -> None:
    """Speaks a clip into a 16-bit FLAC file; the same samples every time."""
    soundfile.write(path, speak_repeatably(clip), SAMPLE_RATE, format="FLAC", subtype="PCM_16")


def main(arguments: Sequence[str]) -> int:
    """Writes all examples; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m compress.pocket.examples", description="Writes the example clips.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to; made if it is missing")
    directory = parser.parse_args(arguments).directory
    try:
        speech.check_installed()
        chosen = examples()
    except KompaktError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    directory.mkdir(parents=True, exist_ok=True)
    for name, clip in chosen.items():
        path = directory / f"{name}.flac"
        write(clip, path)
        print(f"{path}  {clip.voice}: {clip.en}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
