"""The benchmark as a user without a GPU runs it: a small model, all parts, in several calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.reports import page
from benchmarks.true_size.bench import SIZES, problem
from benchmarks.true_size.parts import PARTS

SMALL = SIZES["small"]
FLAGS = ["--size", "small", "--formats", "bf16"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one call that measures all parts of a plain model."""
    directory = tmp_path_factory.mktemp("results")
    assert main(["gpu", *FLAGS, "--results", str(directory)]) == 0
    return directory


def rows(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "gpu.jsonl").read_text().splitlines()]


@pytest.fixture
def lines(results: Path) -> dict[str, list[dict[str, Any]]]:
    return {row["part"]: row["lines"] for row in rows(results)}


def test_every_part_has_a_row(results: Path) -> None:
    found = rows(results)
    assert [row["part"] for row in found] == list(PARTS)
    for row in found:
        assert (row["format"], row["model"], row["layers"]) == ("bf16", "Qwen2-Audio, small", list(SMALL.layers))
        assert row["device"]["name"]
        assert {"date", "commit", "machine", "versions"} <= row.keys()


def test_latency_tells_each_way_and_depth(lines: dict[str, list[dict[str, Any]]]) -> None:
    found = {(one["way"], one["clip_s"], one["layers"]): one for one in lines["latency"]}
    assert len(found) == 2 * len(SMALL.clips_s) * len(SMALL.layers)
    for (_, _, n_layers), one in found.items():
        assert 0 < one["first_ms"] < one["total_ms"]
        assert one["total_ms"] == pytest.approx(one["first_ms"] + (SMALL.new_tokens - 1) * one["token_ms"], rel=0.01)
        assert one["speed_of_light"] > 0
        if n_layers == SMALL.layers[0]:
            assert one["times_as_fast"] == {"median": 1, "low": 1, "high": 1}
    # the published way encodes 30 s whatever it hears
    shortest = min(SMALL.clips_s)
    assert found["ours", shortest, 8]["first_ms"] < found["published", shortest, 8]["first_ms"]


def test_fewer_layers_take_less_memory(lines: dict[str, list[dict[str, Any]]]) -> None:
    whole, fewer, fewest = (one["weight_bytes"] for one in lines["footprint"])
    assert whole - fewer == fewer - fewest > 0
    assert all(one["peak_bytes"] is None for one in lines["footprint"]), "a CPU does not tell"


def test_batches_encoder_and_search_have_their_lines(lines: dict[str, list[dict[str, Any]]]) -> None:
    batch = [(one["layers"], one["rows"]) for one in lines["batch"]]
    assert batch == [(n_layers, n_rows) for n_layers in SMALL.layers for n_rows in SMALL.rows]
    for one in lines["batch"]:
        assert one["tokens_per_s"] == pytest.approx(1e3 * one["rows"] / one["step_ms"], rel=0.01)
    assert [one["clip_s"] for one in lines["encoder"]] == list(SMALL.clips_s)
    assert lines["encoder"][0]["encoder"]["ratio"] > 2
    naive, *_, shared = lines["search"]
    assert (naive["way"], shared["way"], naive["times_as_fast"]) == ("naive", "shared", 1)
    # first and last layer are never candidates
    assert shared["candidates"] == SMALL.layers[0] - 2


def test_what_is_measured_is_not_measured_again(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = rows(results)
    assert main(["gpu", *FLAGS, "--results", str(results)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{part}, bf16: measured already" for part in PARTS]
    assert rows(results) == before


@pytest.fixture
def other(results: Path, tmp_path: Path) -> Path:
    """A directory whose rows another device has measured."""
    changed = [row | {"device": {"name": "another", "memory_gb": 80.0}} for row in rows(results)]
    (tmp_path / "gpu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    return tmp_path


def test_what_another_device_measured_is_measured_here_and_what_does_not_fit_is_left(
    other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--parts", "footprint", "encoder", "--budget-s", "0.001", "--results", str(other)]
    assert main(["gpu", *FLAGS, *flags]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "left for the next call, as the budget of 0.001 s is spent: encoder, bf16"
    assert [row["part"] for row in rows(other)] == [*PARTS, "footprint"]
    assert main(["gpu", *FLAGS, *flags]) == 0
    assert "footprint, bf16: measured already" in capsys.readouterr().out
    assert rows(other)[-1]["part"] == "encoder"
    assert main(["gpu", *FLAGS, "--again", *flags]) == 0
    assert rows(other)[-1]["part"] == "footprint"


def test_of_a_cpu_the_page_shows_ratios_alone(results: Path) -> None:
    text = page.render(results)
    assert "| way | clip | layers | times as fast | speed of light |" in text
    assert "| layers | weights, GB | at most, GB |" in text
    assert ", ms |" not in text.partition("## The true architecture")[2].partition("\n## ")[0]


def test_without_a_gpu_the_true_size_is_measured_in_brief() -> None:
    assert not problem("full-brief", "latency", "bf16", 20_000_000_000)
    assert problem("full-brief", "search", "bf16", 20_000_000_000) == "too slow without a GPU"
    assert problem("full-brief", "latency", "nf4", 20_000_000_000) == "too slow without a GPU"
    assert problem("full-brief", "latency", "bf16", 8_000_000_000).endswith("of memory, and 8 GB are free")
    assert not problem("small", "search", "nf4", 0)


def test_the_page_shows_each_part_by_device(other: Path, results: Path) -> None:
    with (other / "gpu.jsonl").open("a") as file:
        file.write((results / "gpu.jsonl").read_text())
    full = rows(other)[2] | {"lines": [{"layers": 8, "rows": 64, "out_of_memory": True}], "format": "nf4"}
    none = rows(other)[2] | {"lines": [{"out_of_memory": True}], "format": "int8"}
    with (other / "gpu.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in (full, none))
    text = page.render(other)
    assert text.count("### Qwen2-Audio, small on ") == 2
    assert "### Qwen2-Audio, small on another (80 GB)\n" in text
    assert text.count("**One clip at a time**, bf16, 3 new tokens:") == 2
    assert "| published | 3 s | 4 |" in text
    assert "Too little memory for 64 clips with 8 layers." in text
    assert "Too little memory for the model." in text
    assert "\n\n\n" not in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--budget-s", "0"], "--budget-s must be more than 0 seconds"),
        (["--size", "full"], "--size full needs a CUDA device: without one, --size full-brief"),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gpu", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
