"""COMET, run by its own program in an environment of its own: it needs transformers 4 and NumPy 1.

COMET (Rei et al., 2020) compares a translation with its source and a reference.  The paper shows it times 100, from
the model wmt20-comet-da (section 5), whose values have no bounds: differences say more than ratios.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from compress.comet_scores import SEED
from compress.errors import CheckpointError, RecipeError
from compress.recipe_stages import COMET_MODEL
from compress.score import BOOTSTRAP_SAMPLES, refuse_unequal

ENVIRONMENT: Final = Path(__file__).parents[1] / ".venv-comet"  # where `make comet` puts it

_HUB_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)?")
_EXCEPTION: Final = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*", re.MULTILINE)
_UNKNOWN_CLASS: Final = re.compile(r"GLOBAL (\S+) was not an allowed global")
_PROGRAM: Final = ("python", "comet-score")
# as COMET itself does it, with its own version of the hub's client: what that finds, COMET finds
_DOWNLOAD: Final = """
import sys
from huggingface_hub import snapshot_download
try:
    snapshot_download(sys.argv[1])
except Exception:
    sys.exit(1)
"""


def score(
    sources: Sequence[str],
    hypotheses: Mapping[str, Sequence[str]],
    references: Sequence[str],
    model: str | Path = COMET_MODEL,
    *,
    environment: Path = ENVIRONMENT,
    gpu: bool = False,
) -> dict[str, list[float]]:
    """COMET of every sentence, times 100, for any number of systems that translated the same sources.

    A call takes about 20 s before its first sentence (and the first one with a model's name downloads it), so give it
    all systems at once.  COMET's program computes in 16 bits, on CPUs too: about three digits are good.

    Args:
        sources: English sentences, shape (n,).
        hypotheses: translations by name of the system, each of shape (n,).
        references: shape (n,).
        model: a name on the hub, or the path of a `.ckpt` file.
        environment: where COMET is installed.
        gpu: whether to compute on a GPU.

    Raises:
        RecipeError: no COMET in `environment`, no sentences, or not as many of each kind.
        CheckpointError: no such model, or COMET failed with it.
    """
    if not hypotheses:
        return {}
    counts = {f"translations by {name}": len(texts) for name, texts in hypotheses.items()}
    refuse_unequal(sources=len(sources), references=len(references), **counts)
    name = find_model(model)
    _require(environment)
    with tempfile.TemporaryDirectory(prefix="comet-") as folder:
        files = {
            system: _write(Path(folder, f"{number}.txt"), texts)
            for number, (system, texts) in enumerate(hypotheses.items())
        }
        result = Path(folder, "scores.json")
        parts = command(
            environment,
            name,
            _write(Path(folder, "sources.txt"), sources),
            list(files.values()),
            _write(Path(folder, "references.txt"), references),
            result,
            gpu=gpu,
        )
        done = subprocess.run(
            parts, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        if done.returncode:
            raise CheckpointError(explain(name, done.returncode, done.stderr))
        found = read_scores(result.read_text(encoding="utf-8"), list(files.values()), len(sources))
    return dict(zip(files, found, strict=True))


def check(model: str | Path = COMET_MODEL, environment: Path = ENVIRONMENT) -> None:
    """Finds out whether `score` has a chance, without loading anything; downloads a model that is on the hub.

    Raises:
        RecipeError: no COMET in `environment`.
        CheckpointError: no such model.
    """
    name = find_model(model)
    _require(environment)
    if name.endswith(".ckpt") or "/" not in name:  # a name of COMET's first years is found elsewhere
        return
    parts = [str(environment / "bin" / "python"), "-I", "-c", _DOWNLOAD, name]
    if subprocess.run(parts, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode:
        raise CheckpointError(_cannot_get(name))


def refuse_untranscribed(sources: Sequence[str], named: str) -> None:
    """Refuses utterances of which nobody knows what is said, since COMET compares with that, too.

    Args:
        sources: English sentences, empty where unknown.
        named: how messages call them.

    Raises:
        RecipeError: saying how many.
    """
    if n_empty := sum(not source.strip() for source in sources):
        raise RecipeError(f"COMET needs English transcripts: {n_empty} of {len(sources)} {named} have none")


def signature_of(model: str | Path = COMET_MODEL, environment: Path = ENVIRONMENT) -> str:
    """The signature of scores by a model, in sacreBLEU's form; a file is named by its content.

    Raises:
        CheckpointError: no such model.
        RecipeError: no COMET in `environment`.
    """
    name = find_model(model)
    if name.endswith(".ckpt"):
        with Path(name).open("rb") as file:
            name = f"{Path(name).name}@{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
    _require(environment)
    site = [str(path) for path in environment.glob("lib/python*/site-packages")]
    versions = [one.version for one in metadata.distributions(name="unbabel-comet", path=site)]
    version = versions[0] if versions else "unknown"
    return f"nrefs:1|bs:{BOOTSTRAP_SAMPLES}|seed:{SEED}|model:{name}|precision:fp16|version:{version}"


def find_model(model: str | Path) -> str:
    """What COMET's program takes as `--model`: a name on the hub as it is, a checkpoint's path made absolute.

    Raises:
        CheckpointError: a directory, a checkpoint that is not there or not whole, or no name at all.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        inside = sorted([*path.glob("*.ckpt"), *path.glob("checkpoints/*.ckpt")])
        hint = f": did you mean {inside[0]}?" if inside else ""
        raise CheckpointError(f"COMET wants a .ckpt file, and {model} is a directory{hint}")
    if path.suffix == ".ckpt":
        if not path.is_file():
            raise CheckpointError(f"there is no COMET checkpoint {model}")
        path = path.absolute()
        if not (path.parent.parent / "hparams.yaml").is_file():
            raise CheckpointError(
                f"{model} needs {path.parent.parent / 'hparams.yaml'}: it says what kind of model it is"
            )
        return str(path)
    if not _HUB_NAME.fullmatch(str(model)):
        raise CheckpointError(f"{str(model)!r} is neither a .ckpt file nor a model's name such as {COMET_MODEL}")
    return str(model)


def command(
    environment: Path,
    model: str,
    sources: Path,
    hypotheses: Sequence[Path],
    references: Path,
    result: Path,
    *,
    gpu: bool,
) -> list[str]:
    """COMET's program and its arguments.

    It is run as a module: the `comet-score` script names its interpreter by a path that a moved checkout breaks.
    `-I` keeps this process' PYTHONPATH and working directory out of it.
    """
    return [
        *(str(environment / "bin" / "python"), "-I", "-m", "comet.cli.score"),
        *("--sources", str(sources)),
        *("--translations", *map(str, hypotheses)),
        *("--references", str(references)),
        *("--model", model),
        *("--gpus", "1" if gpu else "0"),
        *("--num_workers", "0"),
        *("--quiet", "--only_system"),
        *("--to_json", str(result)),
    ]


def read_scores(text: str, hypotheses: Sequence[Path], n: int) -> list[list[float]]:
    """Sentence scores times 100 from what `--to_json` wrote: `{file: [{"src", "mt", "ref", "COMET"}, …]}`.

    Args:
        text: the JSON.
        hypotheses: the files of translations, in the order wanted.
        n: sentences in each.

    Raises:
        CheckpointError: a sentence without a score, or with one that is no number.
    """
    rows = {Path(file).name: found for file, found in json.loads(text).items()}
    scores = [[100 * float(row["COMET"]) for row in rows.get(file.name, [])] for file in hypotheses]
    for values in scores:
        if len(values) != n:
            raise CheckpointError(f"COMET scored {len(values)} of {n} sentences")
        if not all(map(math.isfinite, values)):
            wrong = [i for i, value in enumerate(values, 1) if not math.isfinite(value)]
            raise CheckpointError(f"COMET gave {len(wrong)} of {n} sentences no number, sentence {wrong[0]} first")
    return scores


def explain(model: str, status: int, stderr: str) -> str:
    """Why COMET's program failed, in one or two lines, from what it wrote before it ended."""
    if found := _UNKNOWN_CLASS.search(stderr):
        return (
            f"{model} holds more than weights ({found[1]}), which torch does not load unasked, since it can run any "
            "code.  If you trust it, set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"
        )
    if "not supported by COMET" in stderr:
        return _cannot_get(model)
    exceptions = _EXCEPTION.findall(stderr)
    lines = exceptions or stderr.strip().splitlines() or ["it said nothing"]
    return f"COMET failed with {model} (exit status {status}): {lines[-1].strip()[:300]}"


def _cannot_get(model: str) -> str:
    return (
        f"COMET could not get {model}: there is no such model on the hub, it asks for a login, or there is no "
        "network.  The path of a downloaded .ckpt file works too"
    )


def _require(environment: Path) -> None:
    if not all((environment / "bin" / name).is_file() for name in _PROGRAM):
        raise RecipeError(
            f"COMET needs an environment of its own, and there is none in {environment}: run `make comet`"
        )


def _write(path: Path, texts: Sequence[str]) -> Path:
    """One text a line, as the program reads them: a line break within a text would move all that follow it."""
    path.write_text("".join(re.sub(r"[\r\n]+", " ", text) + "\n" for text in texts), encoding="utf-8")
    return path
