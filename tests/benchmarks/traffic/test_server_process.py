"""Servers as benchmarks start them."""

from __future__ import annotations

from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.traffic.server_process import serving, starting
from compress.checkpoint import POCKET
from compress.errors import RecipeError


def children() -> set[int]:
    return {one.pid for one in psutil.Process().children()}


def test_several_start_together_and_end_in_order() -> None:
    before = children()
    with starting([serving(POCKET), serving(POCKET)]) as coming:
        assert not any(one.done() for one in coming)
        servers = [one.result() for one in coming]
        assert all(httpx.get(f"{one.url}/readyz", trust_env=False).is_success for one in servers)
        assert len({one.url for one in servers}) == 2
    assert [one.exit_code for one in servers] == [0, 0]
    assert children() == before


def test_where_one_does_not_start_none_is_left(tmp_path: Path) -> None:
    before = children()
    with starting([serving(POCKET), serving(tmp_path)]) as (good, bad):
        with pytest.raises(RecipeError, match="the server did not start"):
            bad.result()
        server = good.result()
    assert server.exit_code == 0
    assert children() == before


def test_whoever_fails_while_they_start_leaves_none() -> None:
    before = children()
    with pytest.raises(ZeroDivisionError), starting([serving(POCKET)]) as (server,):
        _ = 1 / 0
    assert server.result().exit_code is None
    assert children() == before
