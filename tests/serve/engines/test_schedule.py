"""What is done next, played through without any work."""

from __future__ import annotations

import random

import numpy as np
import pytest

from compress.reading import Reading
from serve.engine import Request
from serve.engines.batch import Job
from serve.engines.schedule import Read, Schedule, Step

NOTHING = Reading([], [], [])
SILENCE = np.zeros(1, np.float32)


def job(model: str = "a") -> Job:
    return Job(Request(model, SILENCE, "de"))


def several(schedule: Schedule, n_jobs: int, model: str = "a") -> list[Job]:
    jobs = [job(model) for _ in range(n_jobs)]
    for one in jobs:
        schedule.add(one)
    return jobs


def read(schedule: Schedule) -> Job:
    """Takes work that must be a clip to read, and does it."""
    work = schedule.next()
    assert isinstance(work, Read)
    schedule.has_read(work.job, NOTHING)
    return work.job


def step(schedule: Schedule) -> list[Job]:
    """Takes work that must be a step, and does it; returns those that joined."""
    work = schedule.next()
    assert isinstance(work, Step)
    schedule.has_stepped(work.model)
    return [one for one, _ in work.joining]


def test_there_is_nothing_to_do_for_nobody() -> None:
    schedule = Schedule(["a"], 4)
    assert schedule.next() is None
    assert len(schedule) == 0


def test_the_oldest_is_read_first_and_joins_at_the_next_step() -> None:
    schedule = Schedule(["a"], 4)
    first, second = several(schedule, 2)
    assert read(schedule) is first
    assert step(schedule) == [first]
    assert read(schedule) is second
    assert step(schedule) == [second]
    assert step(schedule) == []


def test_clips_that_run_wait_for_one_to_be_read_and_not_for_two() -> None:
    schedule = Schedule(["a"], 8)
    several(schedule, 6)
    read(schedule)
    for _ in range(5):
        step(schedule)
        read(schedule)
    step(schedule)


def test_while_one_steps_another_reads() -> None:
    schedule = Schedule(["a"], 8)
    several(schedule, 4)
    read(schedule)
    stepping = schedule.next()
    assert isinstance(stepping, Step)
    for _ in range(3):
        read(schedule)  # nobody waits for it
    assert schedule.next() is None, "a batch is stepped once at a time"
    schedule.has_stepped("a")
    assert len(step(schedule)) == 3


def test_no_step_is_taken_for_clips_that_are_only_being_read() -> None:
    schedule = Schedule(["a"], 8)
    several(schedule, 1)
    assert isinstance(schedule.next(), Read)
    assert schedule.next() is None


def test_a_batch_has_so_many_places_and_those_that_end_free_theirs() -> None:
    schedule = Schedule(["a"], 2)
    jobs = several(schedule, 3)
    assert [read(schedule), *step(schedule), read(schedule), *step(schedule)] == [jobs[0], jobs[0], jobs[1], jobs[1]]
    assert step(schedule) == step(schedule) == []
    schedule.end(jobs[1])
    assert read(schedule) is jobs[2]
    assert len(schedule) == 2


def test_the_line_at_one_model_holds_up_no_other() -> None:
    schedule = Schedule(["a", "b"], 2)
    ahead = several(schedule, 50, "a")
    read(schedule)
    step(schedule)
    read(schedule)
    late = several(schedule, 1, "b")
    assert late[0] in (read(schedule), *step(schedule), *step(schedule))
    taken = [schedule.next() for _ in range(2)]
    assert {work.model for work in taken if isinstance(work, Step)} == {"a", "b"}, "they take turns"
    assert len(schedule) == len(ahead) + 1


@pytest.mark.parametrize("where", ["waiting", "reading", "joining", "running"])
def test_a_job_that_ends_is_gone_wherever_it_was(where: str) -> None:
    schedule = Schedule(["a"], 1)
    (gone,) = several(schedule, 1)
    assert schedule.is_waiting(gone)
    if where != "waiting":
        assert schedule.next() == Read(gone)
        assert not schedule.is_waiting(gone)
    if where in ("joining", "running"):
        schedule.has_read(gone, NOTHING)
    if where == "running":
        assert step(schedule) == [gone]
    schedule.end(gone)
    schedule.end(gone)  # it may be ended by the one who works on it and by one who stops everything
    assert len(schedule) == 0
    assert schedule.next() is None
    (next_one,) = several(schedule, 1)
    assert read(schedule) is next_one
    assert step(schedule) == [next_one]


def test_clearing_ends_all_and_names_them() -> None:
    schedule = Schedule(["a", "b"], 2)
    jobs = [*several(schedule, 3, "a"), *several(schedule, 2, "b")]
    read(schedule)
    schedule.next()
    assert set(schedule.clear()) == set(jobs)
    assert len(schedule) == 0
    assert schedule.next() is None


class Play:
    """Workers that take their time over the jobs of two models, which keep coming."""

    MODELS = ("a", "b")
    PLACES = 3
    LONGEST = 6  # steps that a job may take
    READ, STEP = 4, 1  # ticks

    def __init__(self, n_workers: int, seed: int) -> None:
        self.n_workers = n_workers
        self.chance = random.Random(seed)
        self.schedule = Schedule(self.MODELS, self.PLACES)
        self.now = 0
        self.busy: list[tuple[int, Read | Step]] = []  # until when, with what
        self.lines: dict[str, list[Job]] = {model: [] for model in self.MODELS}
        self.due: dict[Job, int] = {}  # when a job must have a place at the latest
        self.left: dict[Job, int] = {}  # steps that a job in a batch still takes

    def tick(self, *, open_to_all: bool) -> None:
        if open_to_all and self.chance.random() < 0.2:
            self.come(job(self.chance.choice("aaab")))
        done = [work for until, work in self.busy if until == self.now]
        self.busy = [(until, work) for until, work in self.busy if until > self.now]
        for work in done:
            self.finish(work)
        while len(self.busy) < self.n_workers and (taken := self.schedule.next()):
            self.begin(taken)
        self.now += 1

    def come(self, new: Job) -> None:
        line = self.lines[new.request.model]
        turns = len(line) // self.PLACES + 1
        # at the worst, each step of a model waits for a clip that is read and a step, of each of the models
        between_steps = len(self.MODELS) * (self.READ + self.STEP)
        self.due[new] = self.now + turns * (self.LONGEST + 2) * between_steps
        line.append(new)
        self.schedule.add(new)

    def begin(self, work: Read | Step) -> None:
        stepping = [other.model for _, other in self.busy if isinstance(other, Step)]
        if isinstance(work, Read):
            assert self.lines[work.job.request.model].pop(0) is work.job, "oldest first"
            assert self.now <= self.due[work.job]
        else:
            assert work.model not in stepping
        self.busy.append((self.now + (self.READ if isinstance(work, Read) else self.STEP), work))

    def finish(self, work: Read | Step) -> None:
        if isinstance(work, Read):
            self.schedule.has_read(work.job, NOTHING)
            return
        for joined, _ in work.joining:
            self.left[joined] = self.chance.choice([1, 3, self.LONGEST])
        running = [one for one in self.left if one.request.model == work.model]
        assert 0 < len(running) <= self.PLACES
        for one in running:
            self.left[one] -= 1
            if not self.left[one]:
                del self.left[one]
                self.schedule.end(one)
        self.schedule.has_stepped(work.model)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_everybody_gets_in_within_bounds_whoever_else_comes(n_workers: int, seed: int) -> None:
    play = Play(n_workers, seed)
    for now in range(3000):
        play.tick(open_to_all=now < 2000)
    assert max(play.due.values()) > 1500
    assert len(play.schedule) == 0, "nobody is forgotten"
