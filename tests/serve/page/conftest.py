"""A server with the page and two models, and a browser that looks at it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page

from compress import model
from compress.audio import SAMPLE_RATE, decode
from compress.checkpoint import POCKET, Checkpoint
from compress.weights import storage
from tests.serve.conftest import write_wav
from tests.serve.page.browser import opened, ready
from tests.serve.processes import started

N_PLACES = 4  # for requests at a time


@pytest.fixture(scope="session")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model without one of its layers, made for German."""
    directory = tmp_path_factory.mktemp("pruned") / "pruned"
    pocket = Checkpoint.open(POCKET)
    network = pocket.load_model("cpu", torch.bfloat16)
    model.remove_layers(network, decoder=[5])
    model.save(network, pocket.load_processor(), directory)
    left = [layer for layer in pocket.lineage["layers"] if layer != 5]
    storage.write_lineage(directory, pocket.descend("pruned", {"stage": "prune"}, layers=left, language="de"))
    return directory


@pytest.fixture(scope="session")
def page_url(pruned: Path) -> Iterator[str]:
    """A server with the page, in a process of its own: Gradio leaves event loops unclosed, an error in this one."""
    limits = ("--max-requests", str(N_PLACES), "--max-batch", str(N_PLACES), "--max-new-tokens", "64")
    with started("--model", POCKET, "--model", pruned, *limits) as (_, url):
        yield url


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory, clips: Sequence[Path]) -> Path:
    """Sentences with pauses between them, longer than the model's window."""
    pause = np.zeros(2 * SAMPLE_RATE, np.float32)
    samples = np.concatenate([part for clip in (*clips, *clips) for part in (pause, decode(clip), pause)])
    assert len(samples) > 35 * SAMPLE_RATE
    return write_wav(tmp_path_factory.mktemp("talk") / "talk.wav", (samples * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: `KOMPAKT_SCREENSHOTS` keeps them."""
    path = Path(os.environ.get("KOMPAKT_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="module")
def chromium(page_url: str, talk: Path) -> Iterator[Page]:
    """The page in a browser whose microphone hears the talk."""
    with opened(page_url, talk) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        yield page
        strangers = [each for each in asked if not each.startswith((page_url, "data:", "blob:"))]
        assert not strangers, "the page asks nobody but its own server"


@pytest.fixture
def page(chromium: Page) -> Page:
    """The page as somebody sees it who has just come."""
    chromium.reload()
    ready(chromium)
    return chromium
