"""What all engines say of the checkpoints that they load, and what they check of a request."""

from __future__ import annotations

from collections.abc import Sequence

from compress.audio import N_SAMPLES, SAMPLE_RATE, WINDOW_S
from compress.checkpoint import Checkpoint
from compress.errors import AudioTooLong, CheckpointError
from compress.prompt import language
from compress.weights.size import measure
from serve.engine import ModelInfo, Request, find_model


def by_name(checkpoints: Sequence[Checkpoint]) -> dict[str, Checkpoint]:
    """Checkpoints by the names under which requests ask for them.

    Raises:
        CheckpointError: two of them have the same name.
    """
    names = [checkpoint.name for checkpoint in checkpoints]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CheckpointError(f"several checkpoints are called {', '.join(twice)}; names must differ")
    return dict(zip(names, checkpoints, strict=True))


def describe(checkpoint: Checkpoint) -> ModelInfo:
    """The model in a checkpoint, before it is loaded."""
    written = max(file.stat().st_mtime for file in checkpoint.path.glob("*.safetensors"))
    counts: tuple[int | None, int | None]
    try:
        size = measure(checkpoint.path)
        counts = (size.logical_parameters, size.stored_elements)
    except CheckpointError:  # a format whose weights are not counted; whether they load is another question
        counts = (None, None)
    return ModelInfo(checkpoint.name, checkpoint.lineage, checkpoint.n_bytes, int(written), *counts)


def check(request: Request, models: Sequence[ModelInfo]) -> None:
    """Whether an engine with these models can serve a request.

    Raises:
        UnknownModel, LanguageError, AudioTooLong: it cannot.
    """
    model = find_model(models, request.model)
    language(request.to_language)
    model.check_language(request.to_language)
    if len(request.samples) > N_SAMPLES:
        seconds = len(request.samples) / SAMPLE_RATE
        raise AudioTooLong(f"the audio is {seconds:.1f} s long; the limit is {WINDOW_S} s")
