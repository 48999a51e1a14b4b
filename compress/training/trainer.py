"""The training loop of all stages: transformers' Trainer, resumable to the bit, on one process or several.

What is ours and not the Trainer's: the loss (`loss`), the order of the examples (`order`), and states that are whole
or not there (`states`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from compress import clips
from compress.errors import CheckpointError, RecipeError
from compress.recipe_stages import Optimisation
from compress.training import states
from compress.training.collate import Collator, Examples, Item, TrainingSet
from compress.training.log import TrainingLog
from compress.training.loss import TranslationLoss
from compress.training.order import Order
from compress.training.states import PARTIAL, STATES

if TYPE_CHECKING:
    from transformers import Qwen2AudioForConditionalGeneration

LOSSES_FILE: Final = "losses.jsonl"
_WEIGHTS_FILE: Final = "trained.safetensors"


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        index: this one's number.
        count: how many there are.
        device: this one's.
    """

    index: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this one writes and talks."""
        return self.index == 0

    def wait(self) -> None:
        """Returns when all have come here."""
        if self.count > 1:
            torch.distributed.barrier()


def processes() -> Processes:
    """Joins the processes that `accelerate launch` has started; without it, there is this one."""
    arguments = _arguments(Optimisation(master_weights="fp32-only"), Path())
    return Processes(arguments.process_index, arguments.world_size, arguments.device)


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        weights: all of the model's, under the names of its `state_dict`; of a sharded model whole, and in the main
            process only.
        n_steps: optimiser steps.
        loss: per token, mean over the last epoch.
    """

    weights: dict[str, Tensor]
    n_steps: int
    loss: float


def fit(
    model: Qwen2AudioForConditionalGeneration,
    training_set: TrainingSet,
    settings: Optimisation,
    work: Path,
    progress: Progress,
    title: str = "training",
    origin: str = "",
) -> Trained:
    """Trains, in place, what of a model is not frozen; goes on from the last state in `work`, if there is one.

    Args:
        model: fp32 under `master_weights: fp32` and `fp32-only`, bf16 under `bf16`; an adapter may be of another dtype.
        training_set: what to train on.
        settings: see `Optimisation`.
        work: its own directory: states, and a log of all steps' losses.
        progress: shows steps done and time left.
        title: what is shown there.
        origin: where the model's weights come from; states of others are refused.

    Raises:
        RecipeError: nothing to train or to train on, a sound that cannot be used, other settings than those of the
            state, or a loss that is no number.
        CheckpointError: the state is of another model.
    """
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    if not trainable:
        raise RecipeError("every part of the model is frozen: nothing is left to train")
    if not training_set.examples:
        raise RecipeError("there are no examples to train on")
    arguments = _arguments(settings, work)
    together = Processes(arguments.process_index, arguments.world_size, arguments.device)
    shown = progress if together.is_main else Progress(disable=True)
    states.check_same(work, _identity(settings, training_set, trainable, origin), is_main=together.is_main)
    examples = _prepare(model, training_set, shown, together)
    order = Order(examples.lengths(), settings, together.index, together.count)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.disable_input_require_grads()  # only re-entrant checkpointing needs them
    trainer = _TranslationTrainer(
        TranslationLoss(model),
        arguments,
        DataLoader(examples, batch_sampler=order, collate_fn=Collator(training_set.processor, training_set.prompt)),
        TrainingLog(shown, title, work / LOSSES_FILE),
    )
    state = states.last(work / STATES)
    trainer.train(resume_from_checkpoint=None if state is None else str(state))
    model.gradient_checkpointing_disable()
    model.eval()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    last_epoch = losses[-(len(losses) // settings.epochs) :]
    trained = Trained(trainer.weights(), len(losses), sum(last_epoch) / len(last_epoch))
    trainer.accelerator.free_memory()
    return trained


def _prepare(
    model: Qwen2AudioForConditionalGeneration, training_set: TrainingSet, progress: Progress, together: Processes
) -> Examples:
    tower: nn.Module = model.model.audio_tower
    tower.to(together.device)
    prepared = clips.prepare(
        model,
        training_set.processor,
        training_set.examples,
        training_set.cache,
        progress,
        (together.index, together.count),
    )
    together.wait()
    return Examples(training_set.examples, prepared)


class _TranslationTrainer(Trainer):
    def __init__(
        self, loss: TranslationLoss, arguments: TrainingArguments, batches: DataLoader[Item], log: TrainingLog
    ) -> None:
        super().__init__(model=loss, args=arguments, callbacks=[log])
        self.remove_callback(PrinterCallback)
        # `compute_loss` divides by the tokens of the whole step.  Left to itself, the Trainer would take Qwen2-Audio's
        # `forward(**kwargs)` for a promise to do so, and multiply the loss by the accumulated passes.
        self.model_accepts_loss_kwargs = True
        self._batches = batches

    def get_train_dataloader(self) -> DataLoader[Item]:
        """As it is: accelerate would deal the batches out to the processes once more."""
        return self._batches

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Mean over all tokens of the step: of all forward passes and processes, over which gradients are averaged."""
        total: Tensor = model(**inputs)
        if num_items_in_batch is None:
            raise RuntimeError("the Trainer has not counted the tokens of the step")
        mean: Tensor = total * (self.accelerator.num_processes / num_items_in_batch)
        return mean

    def weights(self) -> dict[str, Tensor]:
        """The model's own, under its own names; every process has to ask, for shards are gathered."""
        state: dict[str, Tensor] = self.accelerator.get_state_dict(self.model)
        return {name.removeprefix("model."): weight for name, weight in state.items()}

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Written by the Trainer under one name, renamed when every process is done; older states go afterwards."""
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            partial, step = Path(str(self.args.output_dir)), self.state.global_step
            states.keep(partial / f"{PREFIX_CHECKPOINT_DIR}-{step}", partial.parent, step)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Stores what training changes, under names that mean the same on the way back.

        `save_pretrained` would write hub names, of which the Trainer recognises none when it resumes, without a word.
        """
        if self.is_fsdp_enabled:
            return  # accelerate writes the shards
        directory = Path(str(output_dir))
        directory.mkdir(parents=True, exist_ok=True)
        weights = {name: weight.detach().contiguous() for name, weight in self._trained_weights().items()}
        save_file(weights, directory / _WEIGHTS_FILE, metadata={"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        stored, weights = load_file(Path(resume_from_checkpoint) / _WEIGHTS_FILE), self._trained_weights()
        if stored.keys() != weights.keys():
            raise CheckpointError(f"{resume_from_checkpoint} holds the state of another model: delete it")
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(stored[name])

    def _trained_weights(self) -> dict[str, nn.Parameter]:
        model: Any = self.model  # typed as if it could be missing
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _arguments(settings: Optimisation, work: Path) -> TrainingArguments:
    """The Trainer's settings; making them joins the processes that train together."""
    autocast = settings.master_weights == "fp32"
    arguments = TrainingArguments(
        output_dir=str(work / STATES / PARTIAL),
        num_train_epochs=1,  # `Order` goes through all of them
        gradient_accumulation_steps=settings.accumulation,
        average_tokens_across_devices=True,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=autocast,
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seed,
        save_strategy="steps",
        save_steps=settings.save_every,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    arguments.mixed_precision = "bf16" if autocast else "no"  # the recipe's word, not that of accelerate's settings
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs are several processes, never threads of one
    n_parts = settings.accumulation * arguments.world_size
    arguments.per_device_train_batch_size = max(1, settings.batch_size // n_parts)
    return arguments


def _identity(settings: Optimisation, training_set: TrainingSet, trainable: list[str], origin: str) -> dict[str, Any]:
    """What a state must agree with to be gone on from."""
    return {
        **settings.model_dump(mode="json", exclude={"save_every", "gradient_checkpointing"}),
        "training set": training_set.fingerprint(),
        "trainable weights": len(trainable),
        "origin": origin,
    }
