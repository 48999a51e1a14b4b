"""The production engine: vLLM's `AsyncLLM`, its front in this process and its core in others."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import logging
import os
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from compress import doctor
from compress.audio import HOP_LENGTH, SAMPLE_RATE, WINDOW_S, Samples
from compress.checkpoint import ADAPTER_CONFIG, Checkpoint, read_object
from compress.decoding import FEWEST_FRAMES, n_audio_tokens
from compress.errors import CheckpointError
from compress.prompt import END_OF_TURN, LANGUAGES, translation
from compress.weights import schemes
from serve.engine import ModelInfo, Request, Result, Timings
from serve.engines.description import check, describe
from serve.engines.text_stream import TextStream
from serve.errors import EngineFailed, SettingsError

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# They would measure, log and send home what is nobody's business; whoever wants that sets them.
_QUIET: Final = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
# On a CPU it keeps a core for all but the model. Of two that is half of the machine: with both, a single caller's first
# text comes after 0.8 of the time, and eight callers get as much; his whole text takes 1.15 times as long.
RESERVED_CORES: Final = "VLLM_CPU_NUM_OF_RESERVED_CPU"
_FEW_CORES: Final = 2
_OURS: Final = ("model", "tokenizer", "max_num_seqs", "trust_remote_code", "enable_lora", "max_lora_rank")
_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for
_END_S: Final = 10.0  # for vLLM's processes to end by themselves
_FEWEST_SAMPLES: Final = FEWEST_FRAMES * HOP_LENGTH


class VllmEngine:
    """A `Translator` over one checkpoint; vLLM holds one model."""

    def __init__(
        self, checkpoints: Sequence[Checkpoint], arguments: str = "{}", max_batch: int = 8, max_new_tokens: int = 256
    ) -> None:
        """Checks what can be checked without loading anything.

        Args:
            checkpoints: one.
            arguments: vLLM's own, a JSON object.
            max_batch: clips that are decoded together.
            max_new_tokens: a text is cut here at the latest.

        Raises:
            CheckpointError: the checkpoint's form is not one that vLLM can serve.
            SettingsError: several checkpoints, no vLLM, or arguments that it does not take.
        """
        if len(checkpoints) != 1:
            raise SettingsError("engine vllm serves one model; start a server for each, or use engine transformers")
        if find_spec("vllm") is None:
            raise SettingsError("engine vllm needs vLLM in this environment, see README.md; or use engine transformers")
        (self._checkpoint,) = checkpoints
        _refuse_what_does_not_load(self._checkpoint)
        os.environ.update(environment())
        self._models = (describe(self._checkpoint),)
        self._max_batch = max_batch
        self._max_new_tokens = max_new_tokens
        self._arguments = _parsed(arguments)
        self._llm: Any = None
        self._loading: asyncio.Future[Any] | None = None
        self._adapter: Any = None
        self._running: set[str] = set()
        self._numbers = itertools.count()
        self._closing = False

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """See `Translator`."""
        return self._models

    @property
    def alive(self) -> bool:
        """See `Translator`."""
        return self._llm is not None and not self._closing and not self._llm.errored

    @property
    def trouble(self) -> str:
        """See `Translator`; nothing but its death keeps it from work."""
        return ""

    @property
    def n_running(self) -> int:
        """See `Translator`."""
        return len(self._running)

    async def start(self) -> None:
        """See `Translator`.

        Raises:
            CheckpointError: the checkpoint does not load.
        """
        self._tokenizer: PreTrainedTokenizerBase = self._checkpoint.load_processor().tokenizer
        self._prompts = {code: self._tokens(code) for code in LANGUAGES}
        try:
            self._loading = asyncio.ensure_future(asyncio.to_thread(self._load))
            self._llm = await asyncio.shield(self._loading)
        except CheckpointError:
            raise
        except Exception as error:
            logger.exception("vLLM does not start")
            raise CheckpointError(f"{self._checkpoint.path} does not load in vLLM: {error}") from error
        for code in self._models[0].languages:
            silence = np.zeros(SAMPLE_RATE, np.float32)
            async with aclosing(self.translate(Request(self._checkpoint.name, silence, code, 3))) as pieces:
                async for _ in pieces:
                    pass

    async def translate(self, request: Request) -> AsyncGenerator[str | Result, None]:
        """See `Translator`."""
        check(request, self._models)
        if not self.alive:
            raise EngineFailed("the engine is not running")
        name = f"clip-{next(self._numbers)}"
        self._running.add(name)
        try:
            async with aclosing(self._pieces(name, request)) as pieces:
                async for piece in pieces:
                    yield piece
        except EngineFailed:
            raise
        except Exception as error:
            logger.exception("vLLM failed on a request")
            raise EngineFailed("the engine failed on this request; the server's log has the cause") from error
        finally:
            self._running.discard(name)

    def exposition(self) -> bytes:
        """See `Translator`: the `vllm:` families."""
        from prometheus_client import generate_latest

        return generate_latest(_VllmMetrics())

    async def close(self) -> None:
        """See `Translator`."""
        self._closing = True
        if self._loading is not None:  # a start that nobody waits for any more leaves processes, too
            with suppress(Exception):
                self._llm = await self._loading
        if self._llm is not None:
            await self._llm.abort(list(self._running))
            # not in a thread: vLLM's task that reads from those processes would see them die, and log that as a failure
            self._llm.shutdown(_END_S)
            self._llm = self._loading = None

    async def _pieces(self, name: str, request: Request) -> AsyncGenerator[str | Result, None]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        submitted = time.perf_counter()
        limit = min(request.max_new_tokens or self._max_new_tokens, self._max_new_tokens)
        end = self._tokenizer.convert_tokens_to_ids(END_OF_TURN)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=limit,
            stop_token_ids=[end],
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        prompt = {
            "prompt_token_ids": self._prompts[request.to_language],
            "multi_modal_data": {"audio": [(_long_enough(request.samples), SAMPLE_RATE)]},
        }
        (rendered,) = await self._llm.renderer.render_cmpl_async([prompt])
        text = TextStream(self._tokenizer)
        ends = {end, self._tokenizer.eos_token_id}
        n_tokens, first_text_s, queue_wait_s, n_prompt = 0, None, 0.0, 0
        async with aclosing(self._llm.generate(rendered, params, name, lora_request=self._adapter)) as outputs:
            async for output in outputs:
                (delta,) = output.outputs
                if delta.finish_reason == "abort":
                    raise EngineFailed("the engine was stopped before the translation was complete")
                n_prompt = len(output.prompt_token_ids or ()) or n_prompt
                if output.metrics is not None and output.metrics.scheduled_ts:
                    queue_wait_s = output.metrics.scheduled_ts - output.metrics.queued_ts
                for token in delta.token_ids:
                    if token in ends:
                        continue
                    n_tokens += 1
                    if piece := text.push(token):
                        if first_text_s is None:
                            first_text_s = time.perf_counter() - submitted
                        yield piece
        decode_s = time.perf_counter() - submitted - queue_wait_s
        yield Result(text.text, n_prompt, n_tokens, Timings(queue_wait_s, first_text_s, decode_s))

    def _tokens(self, code: str) -> list[int]:
        """A prompt with one placeholder, which vLLM has grow to the clip's length."""
        tokens: list[int] = self._tokenizer.encode(translation(code).text, add_special_tokens=False)
        return tokens

    def _load(self) -> Any:
        """Blocks until the model is loaded."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        path = str(self._checkpoint.path)
        longest = max(map(len, self._prompts.values())) + n_audio_tokens(WINDOW_S * 100) + self._max_new_tokens
        arguments: dict[str, Any] = {
            "served_model_name": [self._checkpoint.name],
            "max_model_len": longest,
            "limit_mm_per_prompt": {"audio": 1},
            "mm_processor_cache_gb": 0,  # nobody's speech is kept
            "load_format": "auto" if self._checkpoint.quantisation else "safetensors",
            "dtype": "bfloat16",
        }
        if current_platform.is_cpu():
            refuse_what_a_cpu_computes_wrongly(self._checkpoint, vnni=has_vnni())
            # fp32, as the embedded engine computes; asked for it, what loads nf4 would take four weights for two
            dtype = "bfloat16" if self._checkpoint.quantisation else "float32"
            # as much memory as the longest texts need, not most of it all
            room = self._max_batch * longest * _key_value_bytes(self._checkpoint)
            arguments |= {"dtype": dtype, "enforce_eager": True, "kv_cache_memory_bytes": 2 * room}
        if self._checkpoint.adapter is not None:
            rank = read_object(self._checkpoint.adapter / ADAPTER_CONFIG)["r"]
            arguments |= {"enable_lora": True, "max_lora_rank": min(each for each in _RANKS if each >= rank)}
            self._adapter = LoRARequest(self._checkpoint.name, 1, str(self._checkpoint.adapter))
        arguments |= {"model": path, "tokenizer": path, "max_num_seqs": self._max_batch, "trust_remote_code": False}
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**{**arguments, **self._arguments}))


class _VllmMetrics:
    """What vLLM has registered among all metrics of this process."""

    def collect(self) -> Iterator[Metric]:
        from prometheus_client import REGISTRY

        return (family for family in REGISTRY.collect() if family.name.startswith("vllm:"))


def environment() -> dict[str, str]:
    """What vLLM reads from the environment, as this engine wants it where the user has not set it."""
    wanted = _QUIET | ({RESERVED_CORES: "0"} if len(os.sched_getaffinity(0)) <= _FEW_CORES else {})
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def _parsed(arguments: str) -> dict[str, Any]:
    try:
        found = json.loads(arguments)
    except ValueError as error:
        raise SettingsError(f"--vllm-args is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"--vllm-args must be a JSON object, found {type(found).__name__}")
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)} - set(_OURS)
    if unknown := sorted(found.keys() - known):
        raise SettingsError(
            f"--vllm-args: vLLM does not take {', '.join(unknown)} here; it takes {', '.join(sorted(known))}"
        )
    return found


def _refuse_what_does_not_load(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError, with what to do instead, before vLLM starts and ends in a traceback."""
    verdict = doctor.examine(checkpoint.path).engine("vllm")
    if not verdict.serves:
        raise CheckpointError(f"vLLM cannot serve {checkpoint.name}: {'; '.join(verdict.reasons)}")
    if missing := [package for package in verdict.needs if find_spec(package.replace("-", "_")) is None]:
        raise CheckpointError(f"vLLM cannot serve {checkpoint.name} without {', '.join(missing)}: install that")


def refuse_what_a_cpu_computes_wrongly(checkpoint: Checkpoint, *, vnni: bool) -> None:
    """Integer weights: without AVX-512 vLLM has no kernel for 4 bits, and without VNNI its sums of 8 bits overflow.

    For weights in 8 bits beside plain activations, as embeddings may have them, it has none on any CPU.

    Args:
        checkpoint: what is to be served.
        vnni: whether the CPU has AVX-512 with VNNI.

    Raises:
        CheckpointError: the checkpoint has such weights, and the CPU no kernel for them.
    """
    settings = checkpoint.quantisation
    if not doctor.runs_on_cpu(settings, vnni=vnni):
        raise CheckpointError(
            f"{checkpoint.name} has weights in int{schemes.integer_bits(settings)}, which vLLM computes wrongly or not "
            f"at all on this CPU: serve it {doctor.kernels(settings)}, or with engine transformers"
        )


def has_vnni() -> bool:
    """Whether this CPU has AVX-512 with VNNI."""
    import torch

    return bool(torch.cpu.get_capabilities().get("avx512_vnni"))


def _key_value_bytes(checkpoint: Checkpoint) -> int:
    """Of a token, in fp32."""
    text = read_object(checkpoint.path / "config.json")["text_config"]
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    return int(text["num_hidden_layers"] * 2 * text["num_key_value_heads"] * head * 4)


def _long_enough(samples: Samples) -> Samples:
    return np.pad(samples, (0, max(0, _FEWEST_SAMPLES - len(samples))))
