"""What the embedded engine does next: read a clip that waits, or advance the clips that run.  No work is done here.

Each model has a batch of its own, which clips join oldest first, as soon as one of its places is free.  A clip keeps
its place while it is read, and then for no more steps than its text may have tokens, so the n-th in line gets in after
n / places such turns at the latest.  Models take turns, so a long line at one of them holds up no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from compress.reading import Reading
from serve.engines.batch import Job

# Reading a clip takes six to ten times as long as a step, and clips that run may have to wait for it.  One at a time is
# enough, since each runs for many steps: with eight clients 6.2 of 8 places were busy, and 6.5 when up to four clips
# were read between two steps, for pauses four times as long.
_READS_PER_STEP: Final = 1


@dataclass(frozen=True)
class Read:
    """Work: a clip's audio and its prompt."""

    job: Job


@dataclass(frozen=True)
class Step:
    """Work: those that have been read join their model's batch, and all of its clips get one more token."""

    model: str
    joining: list[tuple[Job, Reading]]


class Schedule:
    """All jobs of the engine.  Not safe between threads: whoever shares it needs a lock."""

    def __init__(self, models: Iterable[str], max_batch: int) -> None:
        """No jobs yet.

        Args:
            models: their names.
            max_batch: places in each model's batch.
        """
        self._lines = {model: _Line(model, max_batch) for model in models}
        self._turns = deque(self._lines.values())

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def add(self, job: Job) -> None:
        """A new job waits."""
        self._lines[job.request.model].waiting.append(job)

    def next(self) -> Read | Step | None:
        """Takes work, if there is any that may begin now."""
        for _ in range(len(self._turns)):
            line = self._turns[0]
            self._turns.rotate(-1)
            if work := line.next():
                return work
        return None

    def has_read(self, job: Job, reading: Reading) -> None:
        """A `Read` is done."""
        self._lines[job.request.model].has_read(job, reading)

    def has_stepped(self, model: str) -> None:
        """A `Step` is done."""
        self._lines[model].stepping = False

    def is_waiting(self, job: Job) -> bool:
        """Nothing has been done for it yet."""
        return job in self._lines[job.request.model].waiting

    def end(self, job: Job) -> None:
        """A job is over, unless it was before; nobody works on it any more."""
        self._lines[job.request.model].end(job)

    def clear(self) -> list[Job]:
        """Ends all jobs and returns them."""
        jobs = [job for line in self._lines.values() for job in line.jobs]
        for job in jobs:
            self.end(job)
        return jobs


class _Line:
    """One model's jobs: those that wait, and those that have a place, of which some are being read."""

    def __init__(self, model: str, max_batch: int) -> None:
        self.waiting: deque[Job] = deque()
        self.stepping = False
        self._model = model
        self._max_batch = max_batch
        self._placed: dict[Job, None] = {}  # in order, unlike a set
        self._reading: set[Job] = set()
        self._joining: list[tuple[Job, Reading]] = []
        self._n_reads = 0  # since the last step began

    def __len__(self) -> int:
        return len(self.waiting) + len(self._placed)

    @property
    def jobs(self) -> list[Job]:
        return [*self._placed, *self.waiting]

    def next(self) -> Read | Step | None:
        may_step = not self.stepping and len(self._placed) > len(self._reading)
        may_read = bool(self.waiting) and len(self._placed) < self._max_batch
        if may_read and not (may_step and self._n_reads >= _READS_PER_STEP):
            return self._read()
        return self._step() if may_step else None

    def _read(self) -> Read:
        job = self.waiting.popleft()
        self._placed[job] = None
        self._reading.add(job)
        self._n_reads += 1
        return Read(job)

    def _step(self) -> Step:
        self.stepping = True
        self._n_reads = 0
        joining, self._joining = self._joining, []
        return Step(self._model, joining)

    def has_read(self, job: Job, reading: Reading) -> None:
        self._reading.discard(job)
        self._joining.append((job, reading))

    def end(self, job: Job) -> None:
        if job in self.waiting:
            self.waiting.remove(job)
        self._placed.pop(job, None)
        self._reading.discard(job)
        self._joining = [(one, reading) for one, reading in self._joining if one is not job]
