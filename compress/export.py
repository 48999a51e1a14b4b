"""The last stage: a checkpoint in the form in which it is shipped, proven to load and to translate.

Layouts: `paper`, what the paper stored bit for bit (nf4, everything else and the adapter in fp32); `compact`, the
same with everything else and the adapter in bf16, or the adapter merged into the 4-bit weights; `bf16`, plain weights;
and those of `quantised_export`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import torch

from compress import card, decoding, doctor, llm_compressor, quantised_export
from compress.audio import Samples
from compress.checkpoint import Checkpoint
from compress.errors import CheckpointError, RecipeError
from compress.prompt import Prompt
from compress.recipe_stages import Export
from compress.training.collate import TrainingExample
from compress.translate import translate
from compress.weights import schemes, storage
from compress.weights.storage import Form

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

_FORMS: Final[dict[str, Form]] = {
    "bf16": Form(None, torch.bfloat16),
    "paper": Form("all", torch.float32),
    "compact": Form("all", torch.bfloat16),
}
_TRIAL_TOKENS: Final = 32


def run(
    stage: Export,
    source: Checkpoint,
    out: Path,
    *,
    clip: Samples,
    prompt: Prompt,
    training: Sequence[TrainingExample] = (),
    environment: Path = llm_compressor.ENVIRONMENT,
) -> Checkpoint:
    """Writes a checkpoint in another layout, loads it back and has it translate a clip; not again if it is there.

    Args:
        stage: the layout, and whether the adapter is merged.
        source: what to export.
        out: the checkpoint to make; one already there is replaced only when the new one is whole.
        clip: what the new checkpoint has to translate, shape (n_samples,), at most 30 s at 16 kHz.
        prompt: what it is asked.
        training: of which layouts that are calibrated take some.
        environment: where llm-compressor is installed, which some layouts need.

    Raises:
        RecipeError: there is no adapter to merge, or the layout keeps it apart; no llm-compressor, or no training data.
        CheckpointError: the source is damaged, `out` holds something else, or what was written does not work.
    """
    _check(stage, source, out)
    settings = stage.model_dump(mode="json")
    heard = quantised_export.chosen(training, stage.n_calibration)
    keys = [[(one.id, one.audio.key, one.target) for one in heard]] if heard else []
    made_from = storage.digest(settings, prompt.text, source.identity, *keys)
    if storage.is_made(out, made_from):
        return Checkpoint.open(out)
    temporary = storage.begin(out)
    if stage.layout in schemes.LAYOUTS:
        quantised_export.write(stage, source, temporary, heard, prompt, environment)
    else:
        storage.rewrite(source, temporary, _form(stage))
    text = try_out(Checkpoint.open(temporary), clip, prompt)
    form = ", ".join(
        [
            stage.layout,
            *(["merged"] if stage.merge else []),
            *(["decoder only"] if stage.modules == "decoder" else []),
            *(["int8 embeddings"] if stage.embeddings == "int8" else []),
        ]
    )
    facts: dict[str, Any] = {"format": form, "trial": text, "made_from": made_from}
    if _same_weights(stage, source):
        facts |= {key: source.lineage[key] for key in ("split", "scores") if key in source.lineage}
    storage.write_lineage(temporary, source.descend(out.name, settings, **facts))
    card.write(temporary)
    return storage.finish(temporary, out)


def try_out(checkpoint: Checkpoint, clip: Samples, prompt: Prompt) -> str:
    """Loads a checkpoint as it lies there and translates a clip.

    Raises:
        CheckpointError: it does not load, or computes what is no number.
    """
    try:
        model = checkpoint.load_for_inference(torch.bfloat16)
        processor = checkpoint.load_processor()
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"what was written to {checkpoint.path} does not load: {error}") from error
    return _translate(model, processor, clip, prompt)


@torch.inference_mode()
def _translate(
    model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, clip: Samples, prompt: Prompt
) -> str:
    audio = decoding.encode(model, decoding.log_mel(processor, [clip]))
    states = model.model.language_model(inputs_embeds=model.model.multi_modal_projector(audio[0])[None])
    if not torch.isfinite(model.lm_head(states.last_hidden_state)).all():
        raise CheckpointError("the new checkpoint's scores are not finite: its weights are damaged")
    (text,) = translate(model, processor, audio, prompt, _TRIAL_TOKENS)
    return text


class Hub(Protocol):
    """What is asked of a model hub; `huggingface_hub.HfApi` has it."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Makes a repository."""

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool) -> Any:
        """Makes a branch."""

    def upload_folder(self, *, repo_id: str, folder_path: Path, revision: str | None, commit_message: str) -> Any:
        """Uploads all files of a folder in one commit."""


@dataclass(frozen=True)
class Upload:
    """What was uploaded, or would be.

    Attributes:
        repository: OWNER/NAME.
        revision: the branch; None for the default one.
        files: (path, bytes), in order.
    """

    repository: str
    revision: str | None
    files: tuple[tuple[str, int], ...]

    @property
    def n_bytes(self) -> int:
        """Of all files."""
        return sum(size for _, size in self.files)


def push(
    checkpoint: Checkpoint,
    repository: str,
    *,
    revision: str | None = None,
    private: bool = True,
    dry_run: bool = False,
    hub: Hub | None = None,
) -> Upload:
    """Uploads a checkpoint to the model hub that huggingface_hub is set up for.

    Args:
        checkpoint: what to upload.
        repository: OWNER/NAME; made if there is none.
        revision: branch to upload to; made if there is none.
        private: whether a new repository is.
        dry_run: only check and list, without asking the hub anything.
        hub: another hub than huggingface_hub's.

    Raises:
        RecipeError: no name of a repository.
        CheckpointError: transformers could not load the files, or the hub refused them.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    if "/" not in repository:
        raise RecipeError(f"a repository is called OWNER/NAME: found {repository!r}")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise RecipeError(f"no repository can be called {repository!r}: {error}") from None
    if reasons := doctor.examine(checkpoint.path).engine("transformers").reasons:
        raise CheckpointError(f"{checkpoint.path} is not fit to be published: {'; '.join(reasons)}")
    files = sorted(file for file in checkpoint.path.rglob("*") if file.is_file())
    listed = tuple((file.relative_to(checkpoint.path).as_posix(), file.stat().st_size) for file in files)
    upload = Upload(repository, revision, listed)
    if dry_run:
        return upload
    hub = hub or cast("Hub", HfApi())
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            hub.create_branch(repository, branch=revision, exist_ok=True)
        hub.upload_folder(
            repo_id=repository,
            folder_path=checkpoint.path,
            revision=revision,
            commit_message=f"Upload {checkpoint.name}",
        )
    except (OSError, HTTPError) as error:  # a refusal and a hub that cannot be reached
        raise CheckpointError(f"{checkpoint.name} could not be uploaded to {repository}: {error}") from error
    return upload


def _form(stage: Export) -> Form:
    form = replace(_FORMS[stage.layout], merge=stage.merge)
    return replace(form, nf4=stage.modules) if form.nf4 else form


def _check(stage: Export, source: Checkpoint, out: Path) -> None:
    if out.expanduser().resolve() == source.path:
        raise RecipeError(f"{out} is the checkpoint to export: name another directory")
    if stage.merge and source.adapter is None:
        raise RecipeError(f"{source.name} has no adapter to merge")
    if source.adapter is not None and not stage.merge and stage.layout in schemes.LAYOUTS:
        raise RecipeError(f"layout {stage.layout} has no adapter beside it, and {source.name} has one: merge it")
    if stage.modules == "decoder" and stage.layout != "compact":
        raise RecipeError(f"modules decoder is for layout compact: {stage.layout} says itself what is in 4 bits")
    if stage.merge and stage.layout == "paper":
        raise RecipeError(
            "layout paper keeps the adapter beside the weights, as the paper did: merge needs another one"
        )


def _same_weights(stage: Export, source: Checkpoint) -> bool:
    """Whether the new files hold the very numbers that the source computes with, so that its scores are theirs."""
    if (
        stage.layout in schemes.LAYOUTS
        or stage.merge
        or stage.modules == "decoder"
        or (source.adapter is not None and stage.layout != "paper")
    ):
        return False
    if stage.layout == "bf16":
        return source.quantisation is None and source.stored_dtype == torch.bfloat16
    return source.quantisation is not None
