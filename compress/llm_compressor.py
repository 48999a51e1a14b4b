"""llm-compressor, run in an environment of its own: its packages are pinned to other versions than vLLM's.

It quantises a decoder's weights: by GPTQ (Frantar et al., 2023), where it is shown what the decoder reads, so that each
rounding is made up for by weights that are yet to be rounded; else to the nearest value.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file
from torch import Tensor

from compress.errors import CheckpointError, RecipeError

ENVIRONMENT: Final = Path(__file__).parents[1] / ".venv-quantise"  # where `make quantise` puts it

_PACKAGE: Final = "llmcompressor"
_JOB: Final = Path(__file__).with_name("llm_compressor_job.py")
_EXCEPTION: Final = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*", re.MULTILINE)


def quantise(
    checkpoint: Path,
    scheme: Mapping[str, Any],
    inputs: Sequence[Tensor],
    out: Path,
    environment: Path = ENVIRONMENT,
) -> None:
    """Writes the decoder's weights as a language model's, quantised, into a directory that is made.

    Args:
        checkpoint: a plain one in hub layout.
        scheme: of weights and activations, see `schemes.scheme`.
        inputs: what the decoder reads, each of shape (n_tokens, width); none for rounding to the nearest value.
        out: the directory.
        environment: where llm-compressor is installed.

    Raises:
        RecipeError: no llm-compressor in `environment`.
        CheckpointError: it failed.
    """
    require(environment)
    with tempfile.TemporaryDirectory(prefix="quantise-", dir=out.parent) as folder:
        file = Path(folder, "inputs.safetensors") if inputs else None
        if file:
            save_file({f"{number:08}": row.contiguous() for number, row in enumerate(inputs)}, file)
        job = {"checkpoint": str(checkpoint), "inputs": file and str(file), "scheme": scheme, "out": str(out)}
        Path(folder, "job.json").write_text(json.dumps(job), encoding="utf-8")
        done = subprocess.run(
            [environment / "bin" / "python", "-I", _JOB, Path(folder, "job.json")],
            cwd=folder,  # it keeps logs where it is started
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    if done.returncode:
        lines = _EXCEPTION.findall(done.stderr) or done.stderr.strip().splitlines() or ["it said nothing"]
        raise CheckpointError(f"llm-compressor failed (exit status {done.returncode}): {lines[-1].strip()[:300]}")


def require(environment: Path = ENVIRONMENT) -> None:
    """Finds out whether `quantise` has a chance.

    Raises:
        RecipeError: no llm-compressor in `environment`.
    """
    if not (environment / "bin" / "python").is_file() or version(environment) is None:
        raise RecipeError(
            f"llm-compressor needs an environment of its own, and there is none in {environment}: run `make quantise`"
        )


def version(environment: Path = ENVIRONMENT) -> str | None:
    """Of the llm-compressor that is installed there; None without one."""
    site = [str(path) for path in environment.glob("lib/python*/site-packages")]
    return next((one.version for one in metadata.distributions(name=_PACKAGE, path=site)), None)
