"""Which engine the operator has asked for."""

from __future__ import annotations

from collections.abc import Sequence

from compress.checkpoint import Checkpoint
from serve.engine import Translator
from serve.settings import Settings


def engine_for(settings: Settings, checkpoints: Sequence[Checkpoint]) -> Translator:
    """The engine, not yet started.  What it is made of is imported now, and no sooner.

    Args:
        settings: which engine, and how.
        checkpoints: what it shall serve; the remote engine asks other servers what they have.

    Raises:
        CheckpointError: one that this engine cannot serve.
        SettingsError: a package is missing, or what is asked for contradicts itself.
    """
    if settings.engine == "remote":
        from serve.engines.remote_engine import RemoteEngine

        key = settings.remote_api_key.get_secret_value() if settings.remote_api_key else ""
        return RemoteEngine(settings.remote_url, key, settings.timeout_s)
    if settings.engine == "vllm":
        from serve.engines.vllm_engine import VllmEngine

        return VllmEngine(checkpoints, settings.vllm_args, settings.max_batch, settings.max_new_tokens)
    from serve.engines.transformers_engine import TransformersEngine

    return TransformersEngine(checkpoints, settings.device, settings.max_batch, settings.max_new_tokens)
