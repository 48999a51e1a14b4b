from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from compress.audio import N_SAMPLES, decode
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import AudioTooLong, CheckpointError, KompaktError, LanguageError
from serve.engine import Request, Result, Translator
from serve.errors import EngineFailed, SettingsError, UnknownModel
from serve.transformers_engine import TransformersEngine
from tests.serve.language import assert_chinese, assert_german
from tests.serve.servers import PATIENCE_S


@pytest.fixture(scope="module")
def engine(loop: asyncio.Runner, endless: Checkpoint) -> Iterator[TransformersEngine]:
    engine = TransformersEngine([Checkpoint.open(POCKET), endless], device="cpu", max_batch=4, max_new_tokens=200)
    loop.run(engine.start())
    yield engine
    loop.run(engine.close())


async def run(engine: Translator, request: Request) -> tuple[list[str], Result]:
    pieces: list[str] = []
    async for piece in engine.translate(request):
        if isinstance(piece, Result):
            return pieces, piece
        pieces.append(piece)
    raise AssertionError("no result")


async def idle(engine: Translator) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while engine.n_running:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def request(clip: Path, code: str = "de", model: str = "pocket", limit: int | None = 48) -> Request:
    return Request(model, decode(clip), code, limit)


def test_streams_pieces_that_join_to_the_result(loop: asyncio.Runner, engine: Translator, clip: Path) -> None:
    for code, check in (("de", assert_german), ("zh", assert_chinese)):
        pieces, result = loop.run(run(engine, request(clip, code)))
        assert all(pieces)
        assert "".join(pieces) == result.text
        check(result.text)
        assert 0 < result.n_output_tokens <= 48 < result.n_input_tokens
        times = result.timings
        assert times.first_text_s is not None
        assert 0 <= times.queue_wait_s <= times.first_text_s <= times.queue_wait_s + times.decode_s


def test_batched_equals_single(loop: asyncio.Runner, engine: Translator, clips: list[Path]) -> None:
    requests = [request(clip, code) for clip in clips for code in ("de", "zh")]

    async def together() -> list[tuple[list[str], Result]]:
        return await asyncio.gather(*(run(engine, each) for each in requests))

    batched = [result.text for _, result in loop.run(together())]
    single = [loop.run(run(engine, each))[1].text for each in requests]
    assert batched == single


def test_a_request_may_cut_its_text(loop: asyncio.Runner, engine: Translator, clip: Path) -> None:
    _, result = loop.run(run(engine, request(clip, model="endless", limit=3)))
    assert result.n_output_tokens == 3


def test_a_closed_stream_frees_its_place(loop: asyncio.Runner, engine: Translator, clip: Path) -> None:
    async def scenario() -> None:
        stream = engine.translate(request(clip, model="endless", limit=None))
        await anext(stream)
        assert engine.n_running == 1
        await stream.aclose()
        await idle(engine)

    loop.run(scenario())


def test_a_cancelled_task_frees_its_place_and_others_go_on(
    loop: asyncio.Runner, engine: Translator, clip: Path
) -> None:
    async def scenario() -> None:
        leaving = [asyncio.create_task(run(engine, request(clip, model="endless", limit=None))) for _ in range(6)]
        staying = asyncio.create_task(run(engine, request(clip, model="endless", limit=20)))
        await asyncio.sleep(0.3)
        for task in leaving:
            task.cancel()
        _, result = await staying
        assert result.n_output_tokens == 20
        await idle(engine)

    loop.run(scenario())


def test_a_clip_need_not_wait_for_a_long_one(loop: asyncio.Runner, engine: Translator, clip: Path) -> None:
    async def scenario() -> None:
        long = asyncio.create_task(run(engine, request(clip, model="endless", limit=None)))
        await asyncio.sleep(0)  # it is submitted
        assert engine.n_running == 1
        await run(engine, request(clip, limit=2))
        assert not long.done()
        long.cancel()
        await idle(engine)

    loop.run(scenario())


@pytest.mark.parametrize(
    ("model", "code", "n_samples", "error"),
    [
        ("other", "de", 16_000, UnknownModel),
        ("pocket", "fr", 16_000, LanguageError),
        ("pocket", "de", N_SAMPLES + 1, AudioTooLong),
    ],
)
def test_refuses_what_it_cannot_serve(
    loop: asyncio.Runner, engine: Translator, model: str, code: str, n_samples: int, error: type[KompaktError]
) -> None:
    with pytest.raises(error):
        loop.run(run(engine, Request(model, np.zeros(n_samples, np.float32), code)))
    assert not engine.n_running


def test_a_batch_that_breaks_off_is_told_and_the_next_one_runs(
    loop: asyncio.Runner, engine: Translator, clip: Path
) -> None:
    broken = np.zeros((2, 16_000), np.float32)  # not the shape that was promised
    with pytest.raises(EngineFailed):
        loop.run(run(engine, Request("pocket", broken, "de")))
    loop.run(run(engine, request(clip, limit=2)))


def test_close_ends_what_runs(loop: asyncio.Runner, clip: Path, endless: Checkpoint) -> None:
    engine = TransformersEngine([endless], device="cpu")

    async def scenario() -> None:
        await engine.start()
        stream = engine.translate(request(clip, model="endless", limit=None))
        await anext(stream)
        await engine.close()
        with pytest.raises(EngineFailed):
            [piece async for piece in stream]
        assert not engine.alive
        with pytest.raises(EngineFailed):
            await run(engine, request(clip, model="endless"))

    loop.run(scenario())


def test_models_must_differ_in_name() -> None:
    with pytest.raises(CheckpointError, match="several checkpoints are called pocket"):
        TransformersEngine([Checkpoint.open(POCKET)] * 2)


def test_weights_that_do_not_load_are_an_error_in_words(loop: asyncio.Runner, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "processor_config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="does not load"):
        loop.run(TransformersEngine([Checkpoint.open(tmp_path)], device="cpu").start())


def test_a_missing_gpu_is_an_error_in_words(loop: asyncio.Runner) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SettingsError, match="no CUDA device"):
        loop.run(TransformersEngine([Checkpoint.open(POCKET)], device="cuda").start())
