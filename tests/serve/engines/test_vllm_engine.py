"""vLLM behind the protocol: the texts of the embedded engine, and nothing left running."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.audio import N_SAMPLES, SAMPLE_RATE
from compress.checkpoint import POCKET, Checkpoint
from compress.errors import AudioTooLong, CheckpointError, LanguageError
from compress.weights import schemes
from serve.engine import Request, Result
from serve.engines.transformers_engine import TransformersEngine
from serve.engines.vllm_engine import RESERVED_CORES, VllmEngine, environment, refuse_what_a_cpu_computes_wrongly
from serve.errors import EngineFailed, SettingsError, UnknownModel
from tests.compress import rounded
from tests.serve.engines.test_transformers_engine import idle, request, run

pytest.importorskip("vllm", reason="this environment is not `make vllm`'s")


@pytest.fixture(scope="module")
def engine(loop: asyncio.Runner) -> Iterator[VllmEngine]:
    engine = VllmEngine([Checkpoint.open(POCKET)], max_batch=4, max_new_tokens=200)
    loop.run(engine.start())
    yield engine
    loop.run(engine.close())


def test_texts_are_those_of_the_embedded_engine(loop: asyncio.Runner, engine: VllmEngine, clips: list[Path]) -> None:
    embedded = TransformersEngine([Checkpoint.open(POCKET)], device="cpu", max_new_tokens=200)
    loop.run(embedded.start())
    requests = [request(clip, code) for clip in clips for code in ("de", "zh")]

    async def together() -> list[tuple[list[str], Result]]:
        return await asyncio.gather(*(run(engine, each) for each in requests))

    for each, (pieces, found) in zip(requests, loop.run(together()), strict=True):
        _, wanted = loop.run(run(embedded, each))
        assert (found.text, found.n_input_tokens, found.n_output_tokens) == (
            wanted.text,
            wanted.n_input_tokens,
            wanted.n_output_tokens,
        )
        assert "".join(pieces) == found.text
        times = found.timings
        assert times.first_text_s is not None
        assert times.queue_wait_s >= 0
        assert times.first_text_s <= times.queue_wait_s + times.decode_s
    loop.run(embedded.close())


def test_what_is_hardly_a_sound_is_heard(loop: asyncio.Runner, engine: VllmEngine) -> None:
    _, found = loop.run(run(engine, Request("pocket", np.zeros(16, np.float32), "de", 8)))
    assert found.n_input_tokens > 0


def test_a_request_may_cut_its_text(loop: asyncio.Runner, engine: VllmEngine, clip: Path) -> None:
    _, found = loop.run(run(engine, request(clip, limit=3)))
    assert found.n_output_tokens == 3


def test_who_leaves_frees_the_place(loop: asyncio.Runner, engine: VllmEngine, clip: Path) -> None:
    async def scenario() -> None:
        stream = engine.translate(request(clip, limit=None))
        await anext(stream)
        assert engine.n_running == 1
        await stream.aclose()
        leaving = [asyncio.create_task(run(engine, request(clip, limit=None))) for _ in range(6)]
        await asyncio.sleep(0.1)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await idle(engine)
        assert engine._llm.get_num_unfinished_requests() == 0

    loop.run(scenario())


def test_what_it_cannot_serve_is_refused_in_words(loop: asyncio.Runner, engine: VllmEngine, clip: Path) -> None:
    for wrong, error in (
        (request(clip, model="other"), UnknownModel),
        (request(clip, "fr"), LanguageError),
        (Request("pocket", np.zeros(N_SAMPLES + SAMPLE_RATE, np.float32), "de"), AudioTooLong),
    ):
        with pytest.raises(error):
            loop.run(run(engine, wrong))


def test_its_metrics_are_shown(engine: VllmEngine) -> None:
    shown = engine.exposition().decode()
    assert "vllm:num_requests_running" in shown
    assert all(line.startswith(("vllm:", "# HELP vllm:", "# TYPE vllm:")) for line in shown.splitlines() if line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("no", "no JSON"),
        ("[]", "must be a JSON object, found list"),
        ('{"tensor_parallel": 2}', "does not take tensor_parallel here; it takes .*tensor_parallel_size"),
        ('{"model": "other"}', "does not take model here"),
    ],
)
def test_arguments_that_vllm_does_not_take_are_named(arguments: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        VllmEngine([Checkpoint.open(POCKET)], arguments)


@pytest.mark.parametrize(
    ("n_cores", "own", "reserved"), [(1, None, "0"), (2, None, "0"), (3, None, None), (2, "1", "1"), (16, "1", None)]
)
def test_of_few_cores_the_model_gets_all_unless_the_user_says_otherwise(
    n_cores: int, own: str | None, reserved: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(n_cores)))
    monkeypatch.delenv(RESERVED_CORES, raising=False)
    if own is not None:
        monkeypatch.setenv(RESERVED_CORES, own)
    assert environment().get(RESERVED_CORES) == reserved
    assert environment()["VLLM_NO_USAGE_STATS"] == "1"


def test_one_model_a_server() -> None:
    with pytest.raises(SettingsError, match="serves one model"):
        VllmEngine([Checkpoint.open(POCKET)] * 2)


def test_a_tower_in_four_bits_is_refused_before_anything_is_loaded() -> None:
    student = Checkpoint.open(POCKET.with_name("students") / "pocket-setup2-de-export")
    with pytest.raises(CheckpointError, match="tower and projector are quantised"):
        VllmEngine([student])


@pytest.mark.parametrize(
    ("n_bits", "kind", "vnni", "refused"),
    [(4, "int", False, True), (8, "int", False, True), (8, "float", False, False), (4, "int", True, False)],
)
def test_integer_weights_are_not_served_on_a_cpu_without_kernels(
    n_bits: int, kind: str, vnni: bool, refused: bool, tmp_path: Path
) -> None:
    shutil.copytree(POCKET, tmp_path / "student")
    config = tmp_path / "student" / "config.json"
    groups = {"group_0": {"weights": {"num_bits": n_bits, "type": kind}, "targets": ["Linear"]}}
    quantised = {"quant_method": "compressed-tensors", "config_groups": groups}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": quantised}))
    student = Checkpoint.open(tmp_path / "student")
    with pytest.raises(CheckpointError, match=f"int{n_bits}") if refused else nullcontext():
        refuse_what_a_cpu_computes_wrongly(student, vnni=vnni)


@pytest.mark.parametrize("vnni", [False, True])
def test_embeddings_in_int8_are_served_on_no_cpu(vnni: bool, tmp_path: Path) -> None:
    student = rounded.checkpoint(Checkpoint.open(POCKET), tmp_path / "fp8", "fp8", "int8")
    with pytest.raises(CheckpointError, match=r"int8, which .* on this CPU: serve it on a CUDA GPU, or with engine"):
        refuse_what_a_cpu_computes_wrongly(student, vnni=vnni)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("layout", "embeddings"), [*((layout, "bf16") for layout in schemes.LAYOUTS), ("w4a16", "int8"), ("fp8", "int8")]
)
def test_on_a_gpu_the_kernels_compute_what_the_plain_weights_do(
    layout: schemes.Layout,
    embeddings: schemes.Embeddings,
    loop: asyncio.Runner,
    clips: list[Path],
    tmp_path: Path,
) -> None:
    student = rounded.checkpoint(Checkpoint.open(POCKET), tmp_path / layout, layout, embeddings)
    texts = []
    for engine in (VllmEngine([student], max_new_tokens=100), TransformersEngine([student], max_new_tokens=100)):
        loop.run(engine.start())
        texts.append([loop.run(run(engine, request(clip, "de")))[1].text for clip in clips])
        loop.run(engine.close())
    same = sum(ours == plain for ours, plain in zip(*texts, strict=True))
    assert same >= 0.7 * len(clips), texts  # activations are rounded as well, and near-ties fall either way


def test_the_end_is_told_to_all_who_wait(loop: asyncio.Runner, clip: Path, endless: Checkpoint) -> None:
    async def scenario() -> None:
        engine = VllmEngine([endless], max_batch=2, max_new_tokens=1000)
        await engine.start()
        assert engine.alive
        streams = [asyncio.create_task(run(engine, request(clip, model="endless", limit=None))) for _ in range(4)]
        await asyncio.sleep(1)
        await engine.close()
        for stream in streams:
            with pytest.raises(EngineFailed):
                await stream
        assert not engine.alive
        with pytest.raises(EngineFailed):
            await run(engine, request(clip, model="endless"))

    loop.run(scenario())
