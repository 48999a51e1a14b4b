"""`python -m benchmarks.cold_start CHECKPOINT CLIP`: what a process goes through until it translates, as a JSON line.

It is what `benchmarks/footprint.py` starts anew for every measurement: a second load in the same process would find
libraries imported, files in memory, and memory that the first one has asked for.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Final

import psutil
import torch

# imported now, so that loading is loading; what only some checkpoints need is imported when they ask for it
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor
from transformers.utils import logging as transformers_logging

from compress.audio import decode
from compress.checkpoint import Checkpoint
from compress.prompt import LANGUAGES, translation
from compress.search.bench import encode
from compress.translate import translate

MAX_NEW_TOKENS: Final = 8


def start(directory: Path, clip: Path) -> dict[str, float]:
    """Loads a checkpoint as the embedded engine does on a CPU, in fp32, and begins to translate a clip with it twice.

    Returns:
        Seconds of loading and of each request, from the file's bytes to the first `MAX_NEW_TOKENS` of its text;
        megabytes of resident memory, before loading and at most.

    Raises:
        KompaktError: no checkpoint, or no audio.
    """
    transformers_logging.disable_progress_bar()
    before_mb = psutil.Process().memory_info().rss / 1e6
    started = time.perf_counter()
    checkpoint = Checkpoint.open(directory)
    model, processor = checkpoint.load_model("cpu", torch.float32), checkpoint.load_processor()
    done_s = [time.perf_counter()]
    for _ in range(2):
        _request(model, processor, clip, str(checkpoint.lineage.get("language", next(iter(LANGUAGES)))))
        done_s.append(time.perf_counter())
    return {
        "load_s": done_s[0] - started,
        "first_s": done_s[1] - done_s[0],
        "second_s": done_s[2] - done_s[1],
        "before_mb": before_mb,
        "peak_mb": _peak_mb(),
    }


def _request(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, clip: Path, language: str
) -> None:
    audio = encode(model, processor, [decode(clip)])
    translate(model, processor, audio, translation(language), MAX_NEW_TOKENS)


def _peak_mb() -> float:
    """The most that was resident; `getrusage` would give the parent's, where that had more."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak) * 1024 / 1e6


if __name__ == "__main__":
    print(json.dumps(start(Path(sys.argv[1]), Path(sys.argv[2]))))
