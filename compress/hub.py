"""Models by name: the pocket model, a directory, or a repository of the model hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from compress.checkpoint import POCKET, Checkpoint
from compress.errors import CheckpointError

# No pickles, no code.
_FILES: Final = ("*.json", "*.safetensors", "*.jinja", "*.txt")


def fetch(model: str, revision: str | None = None, cache: Path | None = None) -> Checkpoint:
    """Opens a model; one on the hub is downloaded first, as far as it is not in the hub's cache already.

    Args:
        model: `pocket`, a directory, or OWNER/NAME on the hub.
        revision: commit, tag or branch on the hub.
        cache: the hub's cache, its usual place if absent.

    Returns:
        The checkpoint; one from the hub is called OWNER/NAME@COMMIT, unless its lineage has a name for it.

    Raises:
        CheckpointError: neither there nor to be had, or no checkpoint.
    """
    if not is_on_hub(model):
        if revision is not None:
            raise CheckpointError(f"{model} is no model from the hub: only those have revisions")
        return Checkpoint.open(POCKET if model == "pocket" else Path(model).expanduser())

    try:
        opened = Checkpoint.open(download(model, revision, _FILES, cache=cache))
    except OSError as error:
        raise CheckpointError(
            f"there is no directory {model}, and it is neither in the hub's cache nor to be downloaded ({error})"
        ) from error
    return opened if "name" in opened.lineage else replace(opened, name=f"{model}@{opened.path.name[:12]}")


def is_on_hub(model: str) -> bool:
    """Whether a model's name can only be one of the hub's."""
    return not Path(model).expanduser().is_dir() and model.count("/") == 1 and not model.startswith((".", "~", "/"))


def held(model: str, cache: Path | None = None) -> tuple[Path, int]:
    """Where a model from the hub is kept, and how many bytes of it are there already.

    Args:
        model: OWNER/NAME on the hub.
        cache: the hub's cache, its usual place if absent.
    """
    from huggingface_hub import constants

    folder = (cache or Path(constants.HF_HUB_CACHE)) / f"models--{model.replace('/', '--')}"
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return folder, sum(file.stat().st_size for file in files)


def download(
    repository: str,
    revision: str | None,
    patterns: Sequence[str],
    *,
    kind: Literal["model", "dataset"] = "model",
    cache: Path | None = None,
) -> Path:
    """The directory of a repository in the hub's cache; downloads what is not there yet.

    Args:
        repository: OWNER/NAME.
        revision: commit, tag or branch; with a full commit nothing is asked of the network once it is there.
        patterns: which files.
        kind: what the repository holds.
        cache: the hub's cache, its usual place if absent.

    Raises:
        OSError: neither the hub nor the cache has it; says in a line why the hub has not.
    """
    import httpx
    from huggingface_hub import snapshot_download

    def snapshot(*, offline: bool) -> Path:
        return Path(
            snapshot_download(
                repository,
                repo_type=kind,
                revision=revision,
                cache_dir=cache,
                allow_patterns=list(patterns),
                local_files_only=offline,
            )
        )

    try:
        return snapshot(offline=False)
    except (httpx.HTTPError, OSError, ValueError) as error:
        try:
            return snapshot(offline=True)
        except (OSError, ValueError):
            raise OSError((str(error).splitlines() or [type(error).__name__])[0]) from error
