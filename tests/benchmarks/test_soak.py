"""The short form of the soak: a server, sixteen clients, and nothing lost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.reports import page
from benchmarks.traffic.crowd import Crowd, Wish
from tests.serve.servers import ScriptedTranslator, running, settings_for_tests

EXAMPLE = Path(__file__).parents[2] / "serve" / "examples" / "daily_bed_sheets.flac"


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    results = tmp_path_factory.mktemp("results")
    assert main(["soak", "--requests", "200", "--results", str(results)]) == 0
    (line,) = (results / "soak.jsonl").read_text().splitlines()
    return dict(json.loads(line))


@pytest.mark.slow
def test_nothing_is_lost_wrong_or_left(row: dict[str, Any]) -> None:
    seen = row["seen"]
    assert (seen["lost"], seen["wrong"], seen["unexpected"], seen["troubles"]) == (0, 0, 0, {})
    assert seen["answered"] + sum(seen["misbehaved"].values()) == row["requests"] == 200
    assert len(seen["misbehaved"]) >= 3, "of several kinds"
    assert seen["refused"] > 0
    assert seen["outcomes"]["in progress"] == seen["outcomes"].get("error", 0) == seen["tracebacks"] == 0
    assert seen["outcomes"]["ok"] >= seen["answered"]
    assert seen["exit_code"] == 0
    assert seen["files"]["at_last"] <= seen["files"]["at_first"] + 2
    assert seen["memory_mb"]["growth"] < 100


@pytest.mark.slow
def test_the_row_is_rendered(row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "soak.jsonl").write_text(json.dumps(row) + "\n")
    text = page.render(tmp_path)
    assert f"| 200 | 16 | {row['seen']['answered']} | 0 | 0 |" in text
    assert "the server exited with 0." in text
    assert "- `python -m benchmarks soak` at " in text


def test_another_text_is_wrong_and_none_is_lost() -> None:
    engine = ScriptedTranslator("Hallo")
    wish = Wish(EXAMPLE.read_bytes(), "de", "Guten Tag")

    async def scenario(url: str) -> Crowd:
        crowd = Crowd(url, "scripted", seed=0)
        await crowd.visit(wish)
        await crowd.visit(Wish(wish.audio, "de", "Hallo"))
        await crowd.visit(Wish(b"no audio", "de", "Hallo"))
        await crowd.close()
        return crowd

    with running(settings_for_tests(), engine) as server:
        tally = asyncio.run(scenario(server.url)).tally
    assert (tally.answered, tally.wrong, tally.lost) == (1, 1, 1)
    assert "415" in next(iter(tally.troubles))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--requests", "19"], "--requests must be at least 20"),
        (["--clients", "1"], "--clients at least 2"),
        (["--model", "/nowhere"], "no checkpoint directory at /nowhere"),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["soak", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
