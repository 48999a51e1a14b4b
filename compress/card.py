"""The model card of a checkpoint that the stages made: everything in it is read from the checkpoint itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from compress.checkpoint import LINEAGE_FILE, read_object
from compress.score import Score
from compress.weights import storage
from compress.weights.size import Size, measure

CARD_FILE: Final = "README.md"

_LOADING: Final = """\
## Loading it

```python
import torch
from compress.checkpoint import Checkpoint

model = Checkpoint.open("DIRECTORY").load_model("cpu", torch.bfloat16)
```

Kompakt (`pip install 'kompakt-st[compress]'`) puts the adapter, if there is one, into the model. `python -m compress
doctor DIRECTORY` says which engines can serve these files, and why others cannot.
"""


def write(directory: Path) -> None:
    """Writes the card of a checkpoint from its lineage and its files' headers.

    Raises:
        CheckpointError: it has no readable lineage or weights.
    """
    storage.write_whole(directory / CARD_FILE, render(read_object(directory / LINEAGE_FILE), measure(directory)))


def enter(directory: Path, scores: Sequence[Score], *, paper_parity: bool) -> None:
    """Enters scores in a checkpoint's lineage and card, in the place of others; changes nothing if they are there.

    Args:
        directory: the checkpoint.
        scores: how well it translates.
        paper_parity: whether a search has seen the very utterances that were scored.

    Raises:
        CheckpointError: see `write`.
    """
    entered = [one.as_json() | {"paper_parity": paper_parity} for one in scores]
    storage.write_lineage(directory, read_object(directory / LINEAGE_FILE) | {"scores": entered})
    write(directory)


def render(lineage: Mapping[str, Any], size: Size) -> str:
    """The card as Markdown, with the metadata that the hub reads.

    Args:
        lineage: what `lineage.json` says.
        size: as measured; its name is not used.
    """
    name = str(lineage.get("name", size.name))
    metadata = {"language": _languages(lineage), "library_name": "transformers", "tags": ["speech-translation"]}
    front = yaml.safe_dump({key: value for key, value in metadata.items() if value}, sort_keys=False)
    sections = [_head(name, lineage), _history(lineage), _size(size), _scores(lineage), _LOADING]
    body = "\n".join(section.rstrip() + "\n" for section in sections if section)
    return f"---\n{front}---\n\n{body}"


def _languages(lineage: Mapping[str, Any]) -> list[str]:
    scored = [str(score["language"]) for score in lineage.get("scores", [])]
    named = [str(lineage["language"])] if "language" in lineage else scored
    return ["en", *dict.fromkeys(named)] if named else []


def _head(name: str, lineage: Mapping[str, Any]) -> str:
    lines = [f"# {name}", "", "English speech to text in another language: a compressed Qwen2-Audio."]
    if "parent" in lineage:
        lines.append(f"Made from {lineage['parent']}.")
    if "layers" in lineage:
        kept = ", ".join(str(layer) for layer in lineage["layers"])
        lines += ["", f"Decoder layers, numbered as in the model it was pruned from: {kept}."]
    if "trainable" in lineage:
        trained = lineage["trainable"]
        share = f"{trained['parameters']:,} parameters in {trained['modules']} modules, {trained['share']:.2%} of all"
        lines += ["", f"Its adapter was trained: {share}."]
    return "\n".join(lines)


def _history(lineage: Mapping[str, Any]) -> str:
    rows = [
        f"| {number} | {step.get('stage', '')} | {step.get('source', '')} | {_settings(step)} |"
        for number, step in enumerate(lineage.get("history", []), 1)
    ]
    if not rows:
        return ""
    versions = ", ".join(f"{package} {version}" for package, version in lineage.get("versions", {}).items())
    table = ["## How it was made", "", "| | stage | from | settings |", "|--:|---|---|---|", *rows]
    return "\n".join([*table, *(["", f"With {versions}."] if versions else [])])


def _settings(step: Mapping[str, Any]) -> str:
    shown = {key: value for key, value in step.items() if key not in ("stage", "name", "source") and value is not None}
    # a bar would end the table's cell
    return "; ".join(f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in shown.items()).replace("|", "/")


def _size(size: Size) -> str:
    bits = "" if size.bits_per_weight is None else f", {size.bits_per_weight:.2f} bits a weight"
    lines = [
        "## Size",
        "",
        f"{size.logical_parameters:,} parameters in {size.tensor_bytes:,} bytes{bits}.",
        "",
        "| part | parameters | stored elements | bytes |",
        "|---|--:|--:|--:|",
    ]
    lines += [
        f"| {group} | {share.logical:,} | {share.stored:,} | {share.n_bytes:,} |"
        for group, share in size.groups.items()
    ]
    return "\n".join(lines)


def _scores(lineage: Mapping[str, Any]) -> str:
    scores = lineage.get("scores", [])
    if not scores:
        return "## Scores\n\nNot scored."
    unbounded = " COMET is times 100, and has no bounds." if any(one["metric"] == "COMET" for one in scores) else ""
    lines = [
        "## Scores",
        "",
        f"95 % bootstrap intervals in brackets.{unbounded}",
        "",
        "| split | group | language | metric | score | sentences |",
        "|---|---|---|---|--:|--:|",
    ]
    for score in scores:
        value = f"{score['value']:.2f} ({score['low']:.2f}–{score['high']:.2f})"
        # the second names are those of the shipped pocket model
        split, group = score.get("split", lineage.get("split", "")), score.get("group", score.get("stratum", ""))
        split = f"{split}, searched on, too" if score.get("paper_parity") else split
        n_sentences = score.get("n", score.get("n_clips", ""))
        lines.append(f"| {split} | {group} | {score['language']} | {score['metric']} | {value} | {n_sentences} |")
    signatures = dict.fromkeys(f"- {score['metric']}, {score['language']}: `{score['signature']}`" for score in scores)
    return "\n".join([*lines, "", *signatures])
