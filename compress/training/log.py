"""How a training goes: a progress bar for people, a line of JSON a step for programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

from rich.progress import Progress, TaskID
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from compress.errors import RecipeError

_LOGGED: Final = ("loss", "grad_norm", "learning_rate")


class TrainingLog(TrainerCallback):
    """Shows the progress and logs every step's loss."""

    def __init__(self, progress: Progress, title: str, file: Path) -> None:
        """Takes where to show it, how it is called there, and the log's file: one JSON object a step."""
        self._progress = progress
        self._title = title
        self._file = file
        self._task = TaskID(-1)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts from the state's own log, since a killed run may have logged steps that are taken once more."""
        if state.is_world_process_zero:
            lines = [_line(entry, int(entry["step"])) for entry in state.log_history if "loss" in entry]
            temporary = self._file.with_suffix(".tmp")
            temporary.write_text("".join(lines))
            temporary.replace(self._file)
            self._task = self._progress.add_task(self._title, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the bar."""
        if state.is_world_process_zero:
            self._progress.update(self._task, completed=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Adds a step.

        Raises:
            RecipeError: the loss is no number; nothing that is learnt from there on is worth anything.
        """
        entry: dict[str, float] = kwargs["logs"]
        if "loss" not in entry:
            return
        if not math.isfinite(entry["loss"]):
            raise RecipeError(f"the loss of step {state.global_step} is {entry['loss']}: try a lower learning_rate")
        if state.is_world_process_zero:
            with self._file.open("a") as file:
                file.write(_line(entry, state.global_step))


def _line(entry: dict[str, float], step: int) -> str:
    return json.dumps({"step": step} | {name: entry[name] for name in _LOGGED}) + "\n"
