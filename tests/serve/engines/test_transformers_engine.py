from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.audio import N_SAMPLES, Samples, decode
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import AudioTooLong, CheckpointError, KompaktError, LanguageError
from serve.engine import Request, Result, Translator
from serve.engines.transformers_engine import TransformersEngine
from serve.errors import EngineFailed, SettingsError, UnknownModel
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


async def rest(stream: AsyncGenerator[str | Result, None]) -> None:
    async for _ in stream:
        pass


async def idle(engine: Translator) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while engine.n_running:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def request(clip: Path, code: str = "de", model: str = "pocket", limit: int | None = 48) -> Request:
    return Request(model, decode(clip), code, limit)


def test_a_student_of_one_language_is_not_asked_for_another(loop: asyncio.Runner, clip: Path) -> None:
    student = Checkpoint.open(POCKET.with_name("students") / "pocket-setup2-de-export")
    with pytest.raises(LanguageError, match="translates into de, not 'zh'"):
        loop.run(run(TransformersEngine([student]), request(clip, "zh", student.name)))


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


def test_clips_that_come_while_others_run_get_the_text_they_get_alone(
    loop: asyncio.Runner, engine: Translator, clips: list[Path]
) -> None:
    requests = [request(clip, code) for clip in clips for code in ("zh", "de")]

    async def one_after_another() -> list[tuple[list[str], Result]]:
        async def later(number: int) -> tuple[list[str], Result]:
            await asyncio.sleep(0.05 * number)
            return await run(engine, requests[number])

        return await asyncio.gather(*map(later, range(len(requests))))

    single = [loop.run(run(engine, each))[1].text for each in requests]
    assert [result.text for _, result in loop.run(one_after_another())] == single


@pytest.mark.parametrize("model", ["endless", "pocket"])
def test_a_clip_need_not_wait_for_long_ones(model: str, loop: asyncio.Runner, engine: Translator, clip: Path) -> None:
    """Neither in the batch of its own model, which it joins, nor beside another's."""

    async def scenario() -> None:
        long = []
        for _ in range(3):
            stream = engine.translate(request(clip, model="endless", limit=None))
            await anext(stream)  # it runs before the next one comes
            long.append(asyncio.ensure_future(rest(stream)))
        await run(engine, request(clip, model=model, limit=2))
        assert not any(task.done() for task in long)
        for task in long:
            task.cancel()
        await idle(engine)

    loop.run(scenario())


def test_the_line_at_one_model_holds_up_no_other(loop: asyncio.Runner, engine: Translator, clip: Path) -> None:
    async def scenario() -> None:
        line = [asyncio.create_task(run(engine, request(clip, model="endless", limit=None))) for _ in range(10)]
        await asyncio.sleep(0)  # they are submitted
        assert engine.n_running == 10
        await run(engine, request(clip))
        assert sum(task.done() for task in line) < 10
        for task in line:
            task.cancel()
        await idle(engine)

    loop.run(scenario())


def test_who_waits_for_a_place_gets_the_next_one(loop: asyncio.Runner, engine: Translator, clip: Path) -> None:
    async def scenario() -> None:
        ended: list[int] = []

        async def client(number: int) -> None:
            await run(engine, request(clip, model="endless", limit=12))
            ended.append(number)

        await asyncio.gather(*map(client, range(9)))
        assert ended.index(8) >= 5, "four places, and eight came before it"

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


def test_a_clip_that_cannot_be_read_disturbs_no_other(loop: asyncio.Runner, engine: Translator, clip: Path) -> None:
    async def scenario() -> None:
        other = asyncio.create_task(run(engine, request(clip, model="endless", limit=20)))
        broken = np.zeros((2, 16_000), np.float32)  # not the shape that was promised
        with pytest.raises(EngineFailed):
            await run(engine, Request("endless", broken, "de"))
        _, result = await other
        assert result.n_output_tokens == 20

    loop.run(scenario())


def test_a_batch_that_breaks_off_is_told_and_the_next_one_runs(
    loop: asyncio.Runner, engine: Translator, clip: Path
) -> None:
    async def scenario() -> None:
        stream = engine.translate(request(clip, model="endless", limit=None))
        await anext(stream)
        with pytest.raises(EngineFailed):
            await run(engine, Request("endless", decode(clip), "de", "three"))  # type: ignore[arg-type]
        with pytest.raises(EngineFailed):
            await rest(stream)
        assert engine.alive
        assert not engine.n_running
        await run(engine, request(clip, model="endless", limit=2))

    loop.run(scenario())


class Deadly:
    """Samples that end the thread which looks at them, as nothing that a client can send should."""

    def __len__(self) -> int:
        return 16_000

    def __array__(self, *_: object, **__: object) -> Samples:
        raise SystemExit


@pytest.mark.parametrize("max_batch", [1, 8], ids=["waiting", "running"])
def test_death_is_told_to_all_at_once(max_batch: int, loop: asyncio.Runner, clip: Path, endless: Checkpoint) -> None:
    engine = TransformersEngine([Checkpoint.open(POCKET), endless], device="cpu", max_batch=max_batch)

    async def scenario() -> None:
        await engine.start()
        stream = engine.translate(request(clip, model="endless", limit=None))
        await anext(stream)
        others = [asyncio.create_task(run(engine, request(clip, model="endless", limit=None))) for _ in range(4)]
        deadly = asyncio.create_task(run(engine, Request("pocket", Deadly(), "de")))  # type: ignore[arg-type]
        failures = await asyncio.gather(*others, deadly, rest(stream), return_exceptions=True)
        assert [type(failure) for failure in failures] == [EngineFailed] * 6
        assert "has died" in str(failures[0])
        assert not engine.alive
        assert not engine.n_running
        with pytest.raises(EngineFailed, match="not running"):
            await run(engine, request(clip))
        await engine.close()

    loop.run(scenario())


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


class Watching:
    """Samples that note how many threads torch has where they are looked at."""

    def __init__(self, clip: Path) -> None:
        self.n_threads = 0
        self._samples = decode(clip)

    def __len__(self) -> int:
        return len(self._samples)

    def __array__(self, *_: object, **__: object) -> Samples:
        self.n_threads = torch.get_num_threads()
        return self._samples


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="torch has one thread here")
def test_a_clip_has_all_cores_while_it_is_alone(loop: asyncio.Runner, engine: Translator, clip: Path) -> None:
    async def reading() -> int:
        watching = Watching(clip)
        await run(engine, Request("pocket", watching, "de", 2))  # type: ignore[arg-type]
        return watching.n_threads

    async def scenario() -> None:
        n_threads = torch.get_num_threads()
        await idle(engine)
        assert await reading() == n_threads
        stream = engine.translate(request(clip, model="endless", limit=None))
        await anext(stream)
        assert await reading() == min(n_threads, len(os.sched_getaffinity(0)) // 2)
        await stream.aclose()
        await idle(engine)
        assert await reading() == n_threads

    loop.run(scenario())


def test_torch_has_its_threads_back_after_a_close(loop: asyncio.Runner) -> None:
    wanted = torch.get_num_threads()
    engine = TransformersEngine([Checkpoint.open(POCKET)], device="cpu")
    loop.run(engine.start())
    loop.run(engine.close())
    with ThreadPoolExecutor(1) as fresh:  # this thread keeps its number; a new one takes what was set last
        assert fresh.submit(torch.get_num_threads).result() == wanted


def test_a_start_that_nobody_waits_for_can_be_closed(loop: asyncio.Runner) -> None:
    engine = TransformersEngine([Checkpoint.open(POCKET)], device="cpu")

    async def scenario() -> None:
        starting = asyncio.create_task(engine.start())
        await asyncio.sleep(0)  # it begins
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await engine.close()
        assert not engine.alive

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
