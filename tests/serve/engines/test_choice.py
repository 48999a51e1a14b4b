from __future__ import annotations

from typing import Any

import pytest

from compress.checkpoint import POCKET, Checkpoint
from serve.engine import Translator
from serve.engines.choice import engine_for
from serve.engines.remote_engine import RemoteEngine
from serve.engines.transformers_engine import TransformersEngine
from tests.serve.servers import settings_for_tests


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        ({}, TransformersEngine, ["pocket"]),
        ({"engine": "remote", "remote_url": ["http://a"], "remote_api_key": "geheim"}, RemoteEngine, []),
    ],
)
def test_the_engine_is_the_one_that_was_asked_for(
    values: dict[str, Any], kind: type[Translator], names: list[str]
) -> None:
    engine = engine_for(settings_for_tests(**values), [Checkpoint.open(POCKET)])
    assert type(engine) is kind
    assert not engine.alive
    assert [model.name for model in engine.models] == names
