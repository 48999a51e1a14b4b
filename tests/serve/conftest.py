"""Speech, checkpoints and servers that several tests share."""

from __future__ import annotations

import asyncio
import os
import shutil
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from py_nanotts import NanoTTS
from safetensors.torch import load_file, save_file

from compress.audio import SAMPLE_RATE
from compress.checkpoint import POCKET, Checkpoint
from serve.engines.choice import engine_for
from serve.settings import EngineName
from tests.serve.servers import Server, running, settings_for_tests

# whose server it is: tests of the routes hold for every engine
ENGINE: EngineName = cast(EngineName, os.environ.get("KOMPAKT_TEST_ENGINE", "transformers"))

SENTENCES = (
    "Where is the train station?",
    "Thank you very much for the invitation to this conference.",
    "Please hold the line.",
    "We will meet again on Monday morning.",
)


def write_wav(path: Path, pcm: bytes, rate: int = SAMPLE_RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm)
    return path


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Synthetic English speech, one sentence a file."""
    folder = tmp_path_factory.mktemp("clips")
    voice = NanoTTS()
    return [write_wav(folder / f"clip{i}.wav", voice.speak(text, voice="en-US")) for i, text in enumerate(SENTENCES)]


@pytest.fixture(scope="session")
def clip(clips: list[Path]) -> Path:
    return clips[0]


@pytest.fixture(scope="session")
def junk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text that calls itself audio."""
    path = tmp_path_factory.mktemp("junk") / "junk.wav"
    path.write_text("this is not audio, whatever its name says\n" * 100)
    return path


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """31 seconds of silence."""
    return write_wav(tmp_path_factory.mktemp("long") / "long.wav", np.zeros(31 * SAMPLE_RATE, np.int16).tobytes())


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The pocket model, made unable to end a text: what a test must have time to interrupt."""
    directory = tmp_path_factory.mktemp("endless") / "endless"
    shutil.copytree(POCKET, directory)
    (directory / "lineage.json").write_text('{"name": "endless"}')
    ends = Checkpoint.open(POCKET).load_processor().tokenizer.all_special_ids
    for file in directory.glob("*.safetensors"):
        weights = load_file(file)
        for name in weights:
            if name.endswith(("lm_head.weight", "embed_tokens.weight")):
                weights[name][torch.tensor(ends)] = 0
        save_file(weights, file, metadata={"format": "pt"})
    return Checkpoint.open(directory)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The pocket model behind a server without a page, on the engine that the environment names."""
    if ENGINE == "remote":
        with _serving("transformers", max_new_tokens=64) as behind, _serving("remote", remote_url=behind.url) as front:
            yield front
    else:
        with _serving(ENGINE, max_new_tokens=64) as server:
            yield server


@contextmanager
def _serving(name: EngineName, **values: object) -> Iterator[Server]:
    settings = settings_for_tests(engine=name, max_batch=4, **values)
    engine = engine_for(settings, [Checkpoint.open(POCKET)])
    with running(settings, engine) as server:
        yield server
    assert not engine.alive


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.Runner]:
    """An event loop for tests that talk to an engine directly."""
    with asyncio.Runner() as runner:
        yield runner
