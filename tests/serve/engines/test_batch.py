"""A batch of the pocket model, stepped by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress.audio import decode
from compress.checkpoint import POCKET, Checkpoint
from serve.engine import Request, Result
from serve.engines.batch import Batch, Event, Job, LoadedModel


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    checkpoint = Checkpoint.open(POCKET)
    return LoadedModel(checkpoint.load_model("cpu", torch.float32), checkpoint.load_processor())


def joined(batch: Batch, loaded: LoadedModel, clip: Path, limit: int | None = None) -> Job:
    job = Job(Request("pocket", decode(clip), "de", limit))
    with torch.inference_mode():
        batch.join(job, loaded.read(job.request))
    return job


def finished(batch: Batch) -> dict[Job, list[Event]]:
    """All news until the last row has ended, by job."""
    news: dict[Job, list[Event]] = {}
    while batch.jobs:
        for job, event in batch.step():
            news.setdefault(job, []).append(event)
    return news


def test_news_of_a_job_are_its_pieces_and_then_the_result(loaded: LoadedModel, clips: list[Path]) -> None:
    batch = Batch(loaded, 48)
    jobs = [joined(batch, loaded, clip) for clip in clips[:2]]
    assert batch.jobs == jobs
    news = finished(batch)
    assert set(news) == set(jobs)
    for *pieces, result in news.values():
        assert isinstance(result, Result)
        assert "".join(map(str, pieces)) == result.text != ""


def test_a_text_is_cut_where_the_request_or_the_batch_says(loaded: LoadedModel, clip: Path) -> None:
    batch = Batch(loaded, 4)
    counts = {limit: joined(batch, loaded, clip, limit) for limit in (2, None, 9)}
    news = finished(batch)
    results = {limit: news[job][-1] for limit, job in counts.items()}
    assert [result.n_output_tokens for result in results.values() if isinstance(result, Result)] == [2, 4, 4]


def test_those_whose_callers_left_are_dropped_and_named(loaded: LoadedModel, clip: Path) -> None:
    batch = Batch(loaded, 48)
    staying, leaving = joined(batch, loaded, clip), joined(batch, loaded, clip)
    batch.step()
    assert batch.drop_cancelled() == []
    leaving.cancelled = True
    assert batch.drop_cancelled() == [leaving]
    assert batch.jobs == [staying]
    assert set(finished(batch)) == {staying}
