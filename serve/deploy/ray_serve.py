"""The same application as replicas on Ray: `serve run serve.deploy.ray_serve:app replicas=2`, `serve` being Ray's.

Nothing else in this package imports Ray.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any, Final

import click
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve as ray_serve

from compress.checkpoint import Checkpoint
from serve import logs
from serve.app import create_app
from serve.engines.choice import engine_for
from serve.errors import EngineFailed, SettingsError
from serve.gate import Gate
from serve.settings import Settings, read_settings
from serve.tracing import exporting_tracer

_LOOK_S: Final = 0.1  # how often a replica that loads is looked at
_CLOSING_S: Final = 10.0  # for an engine to end, once nothing runs on it
_FULL: Final = 0.75  # of a batch: a new replica has to be there before clips wait

# settings that a replica cannot go by, and what to do instead
_NOT_HERE: Final = {
    "host": "Ray's proxies listen; http_options of its configuration say where",
    "port": "Ray's proxies listen; http_options of its configuration say where",
    "page": "each step of its visitors would meet another replica; open that of a front before Ray",
    "api_keys": "Ray's dashboard shows arguments; SERVE_API_KEYS or api_keys_file hold keys",
    "remote_api_key": "Ray's dashboard shows arguments; SERVE_REMOTE_API_KEY holds it",
}


class Scale(BaseModel):
    """What Ray is asked for.

    Attributes:
        replicas: how many there are at least.
        max_replicas: up to how many may be added when they are busy; None: none.
        cpus: processor cores of each; torch takes as many threads.
        gpus: GPUs of each; None: one if its settings want one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    replicas: int = Field(1, ge=1)
    max_replicas: int | None = Field(None, ge=1)
    cpus: float = Field(1.0, gt=0)
    gpus: float | None = Field(None, ge=0)


class Replica:
    """The application around an engine of its own, in a process that Ray starts, watches and ends."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._gate: Gate

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application, whose life Ray begins and ends."""
        logs.configure(self._settings.log_format)
        checkpoints = [Checkpoint.open(directory) for directory in self._settings.model]
        tracer = exporting_tracer() if self._settings.tracing else None
        app = create_app(self._settings, engine_for(self._settings, checkpoints), tracer=tracer)
        self._gate = app.state.service.gate
        return app

    async def check_health(self) -> None:
        """Returns when the models are loaded, and from then on while the engine lives: Ray keeps asking.

        Raises:
            EngineFailed: it did not start, or has died; Ray puts another replica in this one's place.
        """
        while self._gate.state == "loading":  # noqa: ASYNC110 - the gate tells nobody
            await asyncio.sleep(_LOOK_S)
        self._gate.notice_death()
        if self._gate.failure:
            raise EngineFailed(self._gate.failure)


def app(args: dict[str, Any]) -> ray_serve.Application:
    """What `serve run`, `serve build` and the `import_path` of a configuration name.

    Args:
        args: settings of the server by their names (`model`, `engine`, …), and what `Scale` has.

    Raises:
        click.UsageError: they cannot be meant; Ray's command line prints it without a traceback.
    """
    try:
        scale, settings = read(args)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    return deployment(scale, settings).bind(settings)


def read(args: dict[str, Any]) -> tuple[Scale, Settings]:
    """What arguments say, and for what they leave out the environment (`SERVE_…`) and the defaults.

    Raises:
        SettingsError: what cannot be meant.
    """
    known = Scale.model_fields.keys() | Settings.model_fields.keys() - _NOT_HERE.keys()
    problems = [f"{name} is not for replicas: {why}" for name, why in _NOT_HERE.items() if name in args]
    unknown = sorted(args.keys() - known - _NOT_HERE.keys())
    problems += [f"unknown argument {name}; known: {', '.join(sorted(known))}" for name in unknown]
    try:
        scale = Scale(**{name: args[name] for name in Scale.model_fields if name in args})
    except ValidationError as error:
        problems += [f"{details['loc'][0]}: {details['msg']}" for details in error.errors()]
    else:
        if scale.max_replicas is not None and scale.max_replicas < scale.replicas:
            problems.append(f"replicas is {scale.replicas} but max_replicas only {scale.max_replicas}")
        if not problems:
            flags = {name: value for name, value in args.items() if name not in Scale.model_fields}
            return scale, read_settings(argparse.Namespace(**flags, page=False))
    raise SettingsError("\n".join(problems))


def deployment(scale: Scale, settings: Settings) -> ray_serve.Deployment:
    """The replicas as Ray wants them described."""
    wants_gpu = settings.engine == "vllm" or settings.device == "cuda"
    n_gpus = float(wants_gpu) if scale.gpus is None else scale.gpus
    autoscaling = {
        "min_replicas": scale.replicas,
        "max_replicas": scale.max_replicas,
        "target_ongoing_requests": _FULL * settings.max_batch,
    }
    described = ray_serve.deployment(
        name="kompakt",
        num_replicas=scale.replicas if scale.max_replicas is None else None,
        autoscaling_config=None if scale.max_replicas is None else autoscaling,
        # more than max_requests: a full replica says so, and when to come back, where Ray would have its proxy wait
        max_ongoing_requests=settings.max_connections,
        graceful_shutdown_timeout_s=settings.drain_s + _CLOSING_S,
        ray_actor_options={"num_cpus": scale.cpus, "num_gpus": n_gpus},
    )
    return described(ray_serve.ingress()(Replica))
