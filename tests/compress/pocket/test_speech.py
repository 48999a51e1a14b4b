"""Every voice speaks, the same way for the same seed; and clips in which nothing is said."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compress.audio import SAMPLE_RATE, Samples
from compress.errors import RecipeError
from compress.pocket.speech import VOICES, Voice, check_installed, nothing_said, synthesise, vary

TEXT = "Please hold the line, somebody will be with you in a moment."
_PROGRAMS = {"flite": "flite", "festival": "festival", "espeak": "espeak-ng"}
_FESTIVAL_VOICES = Path("/usr/share/festival/voices/english")


def missing(voice: Voice) -> str:
    """Why a voice cannot speak here; empty if it can."""
    program = _PROGRAMS.get(voice.engine)
    if program and shutil.which(program) is None:
        return f"{program} is not installed"
    if voice.engine == "festival" and not (_FESTIVAL_VOICES / voice.id).is_dir():
        return f"festival's voice {voice.id} is not installed"
    return ""


@pytest.fixture(params=VOICES, ids=lambda voice: voice.name)
def voice(request: pytest.FixtureRequest) -> Voice:
    found: Voice = request.param
    if reason := missing(found):
        pytest.skip(reason)
    return found


def loudness(samples: Samples) -> float:
    return float(np.sqrt(np.square(samples).mean()))


def test_every_voice_speaks(voice: Voice) -> None:
    samples = synthesise(TEXT, voice, random.Random(0))
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert 2 < len(samples) / SAMPLE_RATE < 8
    assert np.abs(samples).max() <= 1
    assert loudness(samples) > 0.01
    # speech has pauses and syllables: a tone or noise would be evenly loud
    blocks = samples[: len(samples) // 400 * 400].reshape(-1, 400)
    levels = np.sqrt(np.square(blocks).mean(1))
    assert levels.std() > 0.3 * levels.mean()
    # silence around it is trimmed
    assert np.abs(samples[: SAMPLE_RATE // 4]).max() > 0.01


_SPEAK = """
import hashlib, random, sys
from compress.pocket.speech import VOICES, speak_the_same_again, synthesise
speak_the_same_again()
voice = next(voice for voice in VOICES if voice.name == sys.argv[1])
for seed in (1, 2, 1):
    samples = synthesise(sys.argv[2], voice, random.Random(seed))
    print(hashlib.sha256(samples.tobytes()).hexdigest())
"""


def test_a_voice_follows_its_seed(voice: Voice) -> None:
    made = subprocess.run(
        [sys.executable, "-c", _SPEAK, voice.name, TEXT],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    first, other, again = made.stdout.split()
    assert first == again != other


def test_a_longer_text_takes_longer(voice: Voice) -> None:
    short, long = (synthesise(text, voice, random.Random(0)) for text in ("Please hold.", TEXT))
    assert len(long) > 2 * len(short)


def test_some_voices_are_kept_for_the_report() -> None:
    names = [voice.name for voice in VOICES]
    assert len(set(names)) == len(names)
    held_out = {voice.name for voice in VOICES if voice.held_out}
    assert held_out == {"pico-gb", "festival-ked"}
    assert not {voice.id for voice in VOICES if voice.held_out} & {voice.id for voice in VOICES if not voice.held_out}


def test_variation_follows_its_seed_and_changes_the_sound() -> None:
    clean = synthesise(TEXT, VOICES[0], random.Random(0))
    made = [vary(clean, random.Random(seed)) for seed in (0, 0, 1, 2, 3)]
    np.testing.assert_array_equal(made[0], made[1])
    assert len({samples.tobytes() for samples in made}) == 4
    for samples in made:
        assert samples.dtype == np.float32
        assert np.isfinite(samples).all()
        assert 0.05 < np.abs(samples).max() <= 1.001
        # tempo by at most 12 %, at most a second of silence on each side, a room's tail
        assert 0.85 * len(clean) < len(samples) < 1.15 * len(clean) + 2.3 * SAMPLE_RATE


def test_nothing_said_follows_its_seed() -> None:
    first, again = (nothing_said(random.Random(7)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_nothing_said_has_many_kinds() -> None:
    made = [nothing_said(random.Random(seed)) for seed in range(60)]
    for samples in made:
        assert samples.dtype == np.float32
        assert 0.3 * SAMPLE_RATE - 1 <= len(samples) <= 8 * SAMPLE_RATE
        assert np.isfinite(samples).all()
        assert 0 < np.abs(samples).max() < 1.1
    # hum and tones are peaks in the spectrum, noise and silence flat, clicks peaks in time
    spectra = [np.abs(np.fft.rfft(samples)) ** 2 for samples in made]
    tonal = [float(spectrum.max() / spectrum.mean()) > 500 for spectrum in spectra]
    peaks = [float(np.abs(samples).max() / max(1e-9, loudness(samples))) > 12 for samples in made]
    quiet = [float(np.abs(samples).max()) < 0.02 for samples in made]
    for kind in (tonal, peaks, quiet):
        assert 0 < sum(kind) < len(made)
    assert any(not (a or b or c) for a, b, c in zip(tonal, peaks, quiet, strict=True))


def test_missing_synthesisers_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match=r"missing: flite, festival, espeak-ng; Debian packages: .*festvox-kdlpc16k"):
        check_installed()


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(RecipeError, match="unknown speech engine 'hal'"):
        synthesise(TEXT, Voice("hal", "hal", "9000", 1.0), random.Random(0))


def test_a_failing_synthesiser_is_quoted() -> None:
    if reason := missing(next(voice for voice in VOICES if voice.engine == "espeak")):
        pytest.skip(reason)
    with pytest.raises(RecipeError, match="espeak-ng failed: "):
        synthesise(TEXT, Voice("nobody", "espeak", "xx-nobody", 1.0), random.Random(0))
