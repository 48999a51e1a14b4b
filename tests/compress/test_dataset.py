"""Nothing unusable passes in silence, and no clip is decoded twice."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compress
from compress import dataset
from compress.audio import SAMPLE_RATE, Samples
from compress.dataset import Audio, BytesAudio, ClipAudio, Corpus, FileAudio, Reading, Utterance
from compress.errors import AudioTooLong, CorruptAudio, LanguageError, RecipeError
from compress.pocket.corpus import silent_clips
from compress.pocket.sound import speak
from compress.recipe import Data
from compress.sources.splits import SPLITS
from tests.compress.sources.corpora import sound, write_manifest


def data(path: Path, **settings: Any) -> Data:
    return Data.model_validate({"source": "manifest", "path": path, **settings})


def rows(*ids: str, split: str = "train") -> list[dict[str, str]]:
    return [{"id": name, "audio": f"{name}.wav", "translation": f"Satz {name}", "split": split} for name in ids]


def report(corpus: Corpus) -> list[str]:
    return [str(problem) for problem in corpus.problems]


# --- what shows at once -----------------------------------------------------------------------------------------


@pytest.fixture
def flawed(tmp_path: Path) -> Path:
    """Six utterances, of which `silent` has no translation, `gone` no file, and the second `good` another's id."""
    table = rows("good", "silent", "fine", "gone", "good", "last")
    table[1]["translation"] = " "
    file = write_manifest(tmp_path / "m.csv", table, sound())
    (tmp_path / "gone.wav").unlink()
    return file


def test_problems_are_fatal_all_at_once_each_with_its_id(flawed: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        dataset.load(data(flawed), "de", "train")
    assert str(caught.value).splitlines() == [
        "manifest train: 3 of 6 utterances cannot be used; on_problem: skip would leave them out",
        "  silent: the translation is empty",
        f"  gone: no audio file {flawed.parent / 'gone.wav'}",
        "  good: an earlier utterance has the same id",
    ]


def test_problems_that_are_skipped_are_kept_in_mind(flawed: Path) -> None:
    corpus = dataset.load(data(flawed, on_problem="skip"), "de", "train")
    assert [utterance.id for utterance in corpus.utterances] == ["good", "fine", "last"]
    assert [problem.id for problem in corpus.problems] == ["silent", "gone", "good"]


def test_no_more_than_twenty_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    file = write_manifest(tmp_path / "m.csv", rows(*(f"u{i}" for i in range(25))))
    (tmp_path / "u24.wav").write_bytes(sound())
    with pytest.raises(RecipeError) as caught:
        dataset.load(data(file), "de", "train")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("manifest train: 24 of 25 utterances cannot be used")
    assert [line.split(":")[0].strip() for line in lines[1:21]] == [f"u{i}" for i in range(20)]
    assert lines[21:] == ["  … and 4 more"]


def test_an_id_in_two_splits_is_a_problem_of_the_later_one(tmp_path: Path) -> None:
    table = rows("a", "b") + rows("b", "c", split="report")
    file = write_manifest(tmp_path / "m.csv", table, sound())
    assert report(dataset.load(data(file), "de", "train")) == []
    with pytest.raises(RecipeError, match=r"1 of 2 .*\n  b: an earlier utterance has the same id"):
        dataset.load(data(file), "de", "report")


def test_a_split_with_nothing_usable_is_refused_even_when_skipping(tmp_path: Path) -> None:
    file = write_manifest(tmp_path / "m.csv", rows("a", "b"))
    with pytest.raises(RecipeError, match=r"2 of 2 utterances cannot be used\n  a: no audio file"):
        dataset.load(data(file, on_problem="skip"), "de", "train")


def test_paper_parity_searches_on_the_very_utterances_it_reports_and_says_so(tmp_path: Path) -> None:
    table = [{"audio": f"{i}.wav", "translation": "x"} for i in range(40)]
    file = write_manifest(tmp_path / "m.csv", table, sound())
    sizes: dict[str, Any] = {"n_search": 5, "n_report": 10}
    train, search, reported = (dataset.load(data(file, paper_parity=True, **sizes), "de", split) for split in SPLITS)
    assert search.utterances == reported.utterances
    assert len(train.utterances) == 30
    assert (search.name, reported.name) == ("manifest search (paper parity: the report utterances)", "manifest report")
    honest = dataset.load(data(file, **sizes), "de", "search")
    assert honest.name == "manifest search"
    assert not {u.id for u in honest.utterances} & {u.id for u in reported.utterances}


def test_what_cannot_be_a_file_name_is_no_audio_file(tmp_path: Path) -> None:
    table = [{"audio": "a sentence in the wrong column " * 20, "translation": "x", "split": "train"}]
    with pytest.raises(RecipeError, match=r"no audio file .*a sentence in the wrong column"):
        dataset.load(data(write_manifest(tmp_path / "m.csv", table)), "de", "train")


def test_an_unknown_language_is_refused(flawed: Path) -> None:
    with pytest.raises(LanguageError, match="'fr'"):
        dataset.load(data(flawed), "fr", "train")


# --- what only decoding shows -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CountingAudio:
    """Bytes that remember how often they were decoded."""

    data: bytes
    loads: list[float | None] = field(default_factory=list)

    @property
    def key(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def load(self, max_s: float | None = None) -> Samples:
        self.loads.append(max_s)
        return BytesAudio(self.data, "").load(max_s)


AUDIO = {
    "one": sound(0.1),
    "cut": sound()[:12],
    "two": sound(0.2),
    "long": sound(1.5),
    "text": b"no sound at all",
    "three": sound(0.3),
}


def corpus_of(audio: dict[str, bytes]) -> Corpus:
    return Corpus("manifest train", tuple(Utterance(name, CountingAudio(data), "x") for name, data in audio.items()))


def n_loads(corpus: Corpus) -> list[int]:
    return [len(utterance.audio.loads) for utterance in corpus.utterances if isinstance(utterance.audio, CountingAudio)]


def test_every_clip_is_decoded_once_and_the_unreadable_are_left_out_and_named() -> None:
    corpus = corpus_of(AUDIO)
    reading = Reading(corpus, data(Path("m.csv"), on_problem="skip", max_s=1))
    found = {utterance.id: len(samples) for utterance, samples in reading}
    assert found == {"one": SAMPLE_RATE // 10, "two": SAMPLE_RATE // 5, "three": 3 * SAMPLE_RATE // 10}
    assert n_loads(corpus) == [1] * len(AUDIO)
    assert [utterance.id for utterance in reading.corpus.utterances] == ["one", "two", "three"]
    reasons = {problem.id: problem.reason for problem in reading.corpus.problems}
    assert reasons.keys() == {"cut", "long", "text"}
    assert "cannot be decoded" in reasons["cut"]
    assert reasons["long"] == "the audio is longer than the limit of 1 s"
    assert "not an audio file" in reasons["text"]


def test_earlier_problems_stay_in_mind(flawed: Path) -> None:
    settings = data(flawed, on_problem="skip")
    (flawed.parent / "last.wav").write_bytes(b"RIFF")
    reading = Reading(dataset.load(settings, "de", "train"), settings)
    assert [utterance.id for utterance, _ in reading] == ["good", "fine"]
    assert [problem.id for problem in reading.corpus.problems] == ["silent", "gone", "good", "last"]


def test_a_fatal_problem_stops_the_work_and_still_names_the_others() -> None:
    corpus = corpus_of(AUDIO)
    worked_on: list[str] = []
    with pytest.raises(RecipeError) as caught:
        worked_on.extend(utterance.id for utterance, _ in Reading(corpus, data(Path("m.csv"), max_s=1)))
    assert worked_on == ["one"]
    assert n_loads(corpus) == [1] * len(AUDIO)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("manifest train: 3 of 6 utterances cannot be used")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["cut", "long", "text"]


def test_a_file_that_went_away_after_loading_is_a_problem_too(tmp_path: Path) -> None:
    file = write_manifest(tmp_path / "m.csv", rows("a", "b"), sound())
    settings = data(file, on_problem="skip")
    corpus = dataset.load(settings, "de", "train")
    (tmp_path / "b.wav").unlink()
    passes: list[Callable[[str], bool] | None] = [None, lambda _: False]
    for done in passes:
        reading = Reading(corpus, settings, done)
        assert [utterance.id for utterance, _ in reading] == ["a"]
        assert "No such file" in report(reading.corpus)[0]


def test_what_an_earlier_pass_has_done_is_not_decoded_and_stays() -> None:
    corpus = corpus_of({"one": AUDIO["one"], "two": AUDIO["two"]})
    key = corpus.utterances[0].audio.key
    reading = Reading(corpus, data(Path("m.csv")), done=lambda other: other == key)
    assert [utterance.id for utterance, _ in reading] == ["two"]
    assert n_loads(corpus) == [0, 1]
    assert reading.corpus == corpus


def test_the_outcome_is_not_known_before_the_end() -> None:
    reading = Reading(corpus_of({"one": AUDIO["one"], "two": AUDIO["two"]}), data(Path("m.csv")))
    next(iter(reading))
    with pytest.raises(RuntimeError, match="not been read to the end"):
        _ = reading.corpus


# --- kinds of audio ---------------------------------------------------------------------------------------------


def test_a_key_is_the_hash_of_the_content_wherever_it_lies(tmp_path: Path) -> None:
    content = sound(0.1)
    (tmp_path / "a.wav").write_bytes(content)
    (tmp_path / "b.wav").write_bytes(content)
    keys = {FileAudio(tmp_path / "a.wav").key, FileAudio(tmp_path / "b.wav").key, BytesAudio(content, "c").key}
    assert keys == {hashlib.sha256(content).hexdigest()}
    assert BytesAudio(content + b"\0", "c").key not in keys


def test_files_and_bytes_give_the_same_samples_within_the_limit(tmp_path: Path) -> None:
    content = sound(0.4)
    (tmp_path / "a.wav").write_bytes(content)
    kinds: list[Audio] = [FileAudio(tmp_path / "a.wav"), BytesAudio(content, "a")]
    for audio in kinds:
        assert len(audio.load()) == len(audio.load(0.4)) == round(0.4 * SAMPLE_RATE)
        with pytest.raises(AudioTooLong):
            audio.load(0.3)
    with pytest.raises(CorruptAudio):
        BytesAudio(content[:12], "a").load()


def test_the_content_is_not_printed() -> None:
    assert repr(BytesAudio(b"x" * 1000, "eval-001")) == "BytesAudio(name='eval-001')"


def test_a_pocket_clip_is_spoken() -> None:
    clip = silent_clips("report", 1)[0]
    audio = ClipAudio(clip)
    assert audio.key == "pocket-silence-report-0"
    np.testing.assert_array_equal(audio.load(), speak(clip))
    assert len(audio.load(len(speak(clip)) / SAMPLE_RATE)) == len(speak(clip))
    with pytest.raises(AudioTooLong, match=r"longer than the limit of 0\.1 s"):
        audio.load(0.1)


def test_importing_a_source_imports_nothing_heavy() -> None:
    program = """
import sys
from compress import dataset
from compress.sources import acl6060, covost2, manifest, pocket
print(*{"torch", "transformers", "pyarrow", "huggingface_hub", "librosa", "sacrebleu"} & set(sys.modules))
"""
    root = Path(compress.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
