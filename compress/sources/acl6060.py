"""ACL 60/60: talks of ACL 2022, cut into utterances, with post-edited transcripts and translations.

Salesky et al. (2023) published it for IWSLT 2023, with its licence: aclanthology.org/2023.iwslt-1.2.  Read here as
`ymoslem/acl-6060` packs it on the Hugging Face hub, the paper's in-domain data (section 2.1): parquet files with one
row an utterance, the audio as a struct of bytes and path.  Its 468 "dev" rows come first, then the 416 "eval" rows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from compress import hub
from compress.dataset import BytesAudio, Utterance
from compress.errors import RecipeError
from compress.recipe import Data, Split
from compress.sources import tables
from compress.sources.splits import Pool

HUB_ID: Final = "ymoslem/acl-6060"

AUDIO: Final = "audio"
TRANSCRIPT: Final = "text_en"
TRANSLATION: Final = "text_{language}"

# The rows do not say which talk they are from.  These are the documents of IWSLT's XML files in their order, and the
# segments of each, to which the rows correspond one to one.
TALKS: Final[dict[str, dict[str, int]]] = {
    "dev": {
        "2022.acl-long.268": 107,
        "2022.acl-long.367": 82,
        "2022.acl-long.590": 66,
        "2022.acl-long.110": 108,
        "2022.acl-long.117": 105,
    },
    "eval": {
        "2022.acl-long.410": 100,
        "2022.acl-long.468": 84,
        "2022.acl-long.567": 56,
        "2022.acl-long.597": 91,
        "2022.acl-long.111": 85,
    },
}

_SHARD: Final = re.compile(r"-\d+-of-(\d+)\.parquet$")


def read(data: Data, language: str, split: Split) -> Pool:
    """Lists all utterances, from `data.path` or from the hub; the seed splits them.

    An utterance is called by its part and its position in it, `dev-000` to `eval-415`.

    Raises:
        RecipeError: the data set cannot be had, is incomplete, or has other columns.
    """
    root = download(data.revision) if data.path is None else data.path.expanduser()
    translation = TRANSLATION.format(language=language)
    columns = [AUDIO, TRANSCRIPT, translation]
    utterances: list[Utterance] = []
    for part in TALKS:
        rows = [row for file in _files(root, part) for row in tables.read_parquet(file, columns).rows]
        talks = _talks(part, len(rows))
        utterances += [
            Utterance(
                id=f"{part}-{number:03d}",
                audio=_audio(row[AUDIO], f"{part}-{number:03d}"),
                translation=row[translation] or "",
                transcript=row[TRANSCRIPT] or "",
                talk=talks[number],
            )
            for number, row in enumerate(rows)
        ]
    return Pool(tuple(utterances))


def download(revision: str | None, cache: Path | None = None) -> Path:
    """The data set's directory in the hub's cache; downloads what is not there yet.

    Args:
        revision: commit on the hub; with a full one nothing is asked of the network once it is there.
        cache: the hub's cache, its usual place if absent.

    Raises:
        RecipeError: neither the hub nor the cache has it.
    """
    try:
        return hub.download(HUB_ID, revision, ["*.parquet"], kind="dataset", cache=cache)
    except OSError as error:
        version = f" at revision {revision}" if revision else ""
        raise RecipeError(
            f"data set {HUB_ID}{version} is not in the cache and cannot be downloaded ({error}); "
            "data.path may name a local copy of its parquet files"
        ) from error


def _files(root: Path, part: str) -> list[Path]:
    """The parquet files of one part in order: `data/dev-00000-of-00002.parquet`, or `dev/0000.parquet`."""
    everything = sorted(root.rglob("*.parquet"))
    files = [file for file in everything if re.match(rf"{part}\b", file.name) or file.parent.name == part]
    if not files:
        found = ", ".join(str(file.relative_to(root)) for file in everything[:20]) or "none"
        raise RecipeError(f"{root} holds no parquet file of {part}; parquet files found: {found}")
    announced = {int(match[1]) for file in files if (match := _SHARD.search(file.name))}
    if announced and announced != {len(files)}:
        raise RecipeError(f"{root} holds {len(files)} parquet files of {part}, and their names say {max(announced)}")
    return files


def _talks(part: str, n_rows: int) -> list[str]:
    """Each row's talk; nothing where the rows are not those that were published."""
    talks = [talk for talk, n in TALKS[part].items() for _ in range(n)]
    return talks if len(talks) == n_rows else [""] * n_rows


def _audio(value: Any, name: str) -> BytesAudio:
    if value is None:
        return BytesAudio(b"", name)
    if not isinstance(value, dict) or "bytes" not in value:
        raise RecipeError(f"{name}: {AUDIO} must be a struct of bytes and path, found {type(value).__name__}")
    return BytesAudio(value["bytes"] or b"", name)
