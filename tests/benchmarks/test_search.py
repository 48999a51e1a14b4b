"""The benchmark as a user runs it, on two utterances and one round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.search import MODES

N_UTTERANCES = 2


@pytest.mark.slow
@pytest.mark.usefixtures("synthesisers")
def test_measures_prints_and_appends_a_row(
    random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", "--utterances", str(N_UTTERANCES), "--rounds", "1", "--repeats", "2"]
    assert main([*arguments, "--model", str(random_model), "--results", str(tmp_path)]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    (line,) = (tmp_path / "search.jsonl").read_text().splitlines()
    assert line == last
    assert any(words.startswith("babbler, de, 2 utterances, 1 rounds") for words in table)
    assert any("times faster than batched" in words for words in table)
    row = json.loads(line)
    assert (row["model"]["name"], row["language"], row["domain"]) == ("babbler", "de", "daily")
    assert row["utterances"] == N_UTTERANCES
    assert {"date", "machine", "versions"} <= row.keys()
    batched, exact = (row["modes"][mode] for mode in ("batched", "exact"))
    assert (tuple(row["modes"]), row["repeats"]) == (MODES, 2)
    assert (exact["removed"], exact["scores"]) == (batched["removed"], batched["scores"])
    # three of five layers are candidates
    assert batched["decoded"] == batched["of"] == exact["of"] == 3 * N_UTTERANCES
    assert N_UTTERANCES <= exact["decoded"] <= exact["of"]
    (layer,), (score,) = exact["removed"], exact["scores"]
    assert 1 <= layer <= 3
    assert 0 < score < 100
    assert list(exact["times_faster_than"]) == [mode for mode in MODES if mode != "exact"]
    forth, back = exact["times_faster_than"]["batched"], batched["times_faster_than"]["exact"]
    assert 0 < forth["low"] <= forth["median"] <= forth["high"]
    # rounded to a hundredth, and seconds themselves are nowhere
    assert forth["low"] * back["high"] == pytest.approx(1, abs=0.2)
    assert not [name for name in exact if name.endswith("_s")]


@pytest.mark.slow
@pytest.mark.usefixtures("synthesisers")
def test_a_run_of_some_searches_only_is_shown_and_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["search", "--utterances", "2", "--rounds", "1", "--repeats", "1", "--modes", "kept", "exact"]
    assert main([*arguments, "--results", str(tmp_path)]) == 0
    assert "kept" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--utterances", "0"], "must be at least 1"),
        (["--rounds", "0"], "must be at least 1"),
        (["--naive-rounds", "0"], "must be at least 1"),
        (["--repeats", "0"], "must be at least 1"),
        (["--model", "/nowhere"], "no checkpoint directory at /nowhere"),
    ],
)
def test_mistakes_are_named_and_leave_no_row(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "--results", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["drafts", "quick"])
def test_an_unknown_mode_is_refused_with_those_there_are(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["search", "--modes", mode])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert all(name in said for name in MODES)
