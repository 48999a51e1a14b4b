"""English speech for the pocket corpus: free synthesisers, then room, noise and channel variation."""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import librosa
import numpy as np

from compress.audio import SAMPLE_RATE, Samples, decode
from compress.errors import RecipeError

DEBIAN_PACKAGES: Final = ("flite", "festival", "festvox-kallpc16k", "festvox-kdlpc16k", "espeak-ng")
_SYNTHESIS_TIMEOUT_S: Final = 60

_M_PERTURB: Final = -6  # in glibc's malloc.h


@dataclass(frozen=True)
class Voice:
    """A synthetic voice; held-out voices are heard in report splits only.

    Attributes:
        name: how results call it.
        engine: pico, flite, festival or espeak.
        id: the engine's name for the voice.
        weight: its share of the training clips, relative to the others.
        held_out: never trained on.
    """

    name: str
    engine: str
    id: str
    weight: float
    held_out: bool = False


VOICES: Final = (
    Voice("pico-us", "pico", "en-US", 4.0),
    Voice("flite-awb", "flite", "awb", 1.5),
    Voice("flite-rms", "flite", "rms", 2.0),
    Voice("flite-slt", "flite", "slt", 2.5),
    Voice("flite-kal16", "flite", "kal16", 1.0),
    Voice("espeak-us", "espeak", "en-us", 0.7),
    Voice("espeak-gb", "espeak", "en-gb-x-rp", 0.5),
    Voice("pico-gb", "pico", "en-GB", 1.0, held_out=True),
    Voice("festival-ked", "festival", "ked_diphone", 1.0, held_out=True),
)


def check_installed() -> None:
    """Fails early, in words, when a synthesiser is missing.

    Raises:
        RecipeError: names the missing programs and the Debian packages that hold them.
    """
    missing = [program for program in ("flite", "festival", "espeak-ng") if shutil.which(program) is None]
    if missing:
        raise RecipeError(
            f"speech synthesisers missing: {', '.join(missing)}; Debian packages: {' '.join(DEBIAN_PACKAGES)}"
        )


def speak_the_same_again() -> None:
    """Has this process' speech depend on text, voice and seed alone, not on what it spoke before.

    pico reads memory that it never wrote; with this, glibc fills new blocks with the complement of the byte, zero, and
    pico sounds as in a fresh process.  It slows down every allocation, so it is for processes that are there to speak.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_PERTURB, 255)


def synthesise(text: str, voice: Voice, rng: random.Random) -> Samples:
    """Speaks a sentence with a random tempo and pitch around the voice's own.

    Returns:
        Samples in [-1, 1], shape (n_samples,), mono, at `SAMPLE_RATE`.
    """
    tempo, pitch = rng.uniform(0.85, 1.18), rng.uniform(0.85, 1.2)
    if voice.engine == "pico":
        return _pico(text, voice, tempo, pitch)
    with tempfile.TemporaryDirectory() as directory:
        wav = Path(directory) / "speech.wav"
        match voice.engine:
            case "flite":
                # The diphone voice kal16 has no trained pitch model to move.
                options = ["--setf", f"duration_stretch={1 / tempo:.3f}"]
                if voice.id != "kal16":
                    options += ["--setf", f"int_f0_target_mean={_F0_HZ[voice.id] * pitch:.0f}"]
                _run(["flite", "-voice", voice.id, *options, "-t", text, "-o", str(wav)])
            case "espeak":
                speed, level = round(165 * tempo), round(50 * pitch)
                _run(["espeak-ng", "-v", voice.id, "-s", str(speed), "-p", str(level), "-w", str(wav), text])
            case "festival":
                script = (
                    f"(voice_{voice.id}) (Parameter.set 'Duration_Stretch {1 / tempo:.3f})"
                    f' (utt.save.wave (utt.synth (Utterance Text "{text}")) "{wav}")'
                )
                _run(["festival", "--pipe"], script)
            case unknown:
                raise RecipeError(f"unknown speech engine {unknown!r}")
        return _trim(decode(wav))


_F0_HZ: Final = {"awb": 130.0, "rms": 110.0, "slt": 180.0}


def _pico(text: str, voice: Voice, tempo: float, pitch: float) -> Samples:
    import py_nanotts

    pcm = py_nanotts.NanoTTS().speak(text, voice=voice.id, speed=tempo, pitch=pitch)
    return _trim((np.frombuffer(pcm, "<i2") / 32768).astype(np.float32))


def _run(command: list[str], stdin: str | None = None) -> None:
    result = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=_SYNTHESIS_TIMEOUT_S, check=False
    )
    if result.returncode:
        raise RecipeError(f"{command[0]} failed: {result.stderr.strip()[-300:]}")


def _trim(samples: Samples) -> Samples:
    trimmed, _ = librosa.effects.trim(samples, top_db=45)
    return np.asarray(trimmed, np.float32)


@cache
def _channel() -> Any:
    """Spectral colour, telephone band, noise, clipping: what lies between a mouth and a file."""
    import audiomentations as am

    return am.Compose([
        am.SevenBandParametricEQ(min_gain_db=-9, max_gain_db=9, p=0.6),
        am.BandPassFilter(
            min_center_freq=1200, max_center_freq=1900, min_bandwidth_fraction=1.4, max_bandwidth_fraction=1.9, p=0.12
        ),
        am.TanhDistortion(min_distortion=0.01, max_distortion=0.3, p=0.1),
        am.AddColorNoise(min_snr_db=8, max_snr_db=40, min_f_decay=-8, max_f_decay=1, p=0.6),
    ])  # fmt: skip


def vary(samples: Samples, rng: random.Random) -> Samples:
    """Another speaker's throat, room, noise and microphone over a clean clip; deterministic in `rng`.

    Resampling by up to 12 % moves formants and pitch together, which no synthesiser's pitch setting
    does; the rest of the chain colours, echoes and soils the sound.
    """
    _seed_libraries(rng)
    if rng.random() < 0.7:
        ratio = rng.uniform(0.89, 1.12)
        samples = librosa.resample(samples, orig_sr=SAMPLE_RATE, target_sr=SAMPLE_RATE * ratio, res_type="soxr_lq")
    if rng.random() < 0.5:
        samples = _reverberate(samples, rng)
    samples = _pad(samples, rng)
    samples = _channel()(samples=samples.astype(np.float32), sample_rate=SAMPLE_RATE)
    peak = float(np.abs(samples).max()) or 1.0
    level = 10 ** (rng.uniform(-20, 0) / 20)
    return np.asarray(samples * (level / peak), np.float32)


def nothing_said(rng: random.Random) -> Samples:
    """A clip without speech: silence, hum, coloured noise or clicks, 0.3 to 8 seconds."""
    _seed_libraries(rng)
    n_samples = round(rng.uniform(0.3, 8) * SAMPLE_RATE)
    noise = np.random.default_rng(rng.getrandbits(32))
    kind = rng.choice(["silence", "noise", "hum", "clicks", "tones"])
    time = np.arange(n_samples) / SAMPLE_RATE
    samples = np.zeros(n_samples)
    if kind == "noise":
        spectrum = np.fft.rfft(noise.standard_normal(n_samples))
        frequency = np.maximum(np.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE), 20)
        samples = np.fft.irfft(spectrum * frequency ** rng.uniform(-1.2, 0.2), n_samples)
        samples *= 1 + 0.8 * np.sin(2 * np.pi * rng.uniform(0.1, 4) * time)
    elif kind == "hum":
        base = rng.choice([50, 60, rng.uniform(80, 400)])
        samples = sum(np.sin(2 * np.pi * base * k * time) * rng.random() / k for k in range(1, 8))  # type: ignore[assignment]
    elif kind == "clicks":
        positions = noise.integers(0, n_samples, max(1, n_samples // rng.randint(2000, 20000)))
        samples[positions] = noise.uniform(-1, 1, len(positions))
    elif kind == "tones":
        notes = np.repeat(noise.uniform(150, 1500, 1 + n_samples // 4000), 4000)[:n_samples]
        samples = np.sin(2 * np.pi * np.cumsum(notes) / SAMPLE_RATE) * (noise.random() + 0.2)
    peak = float(np.abs(samples).max()) or 1.0
    floor = noise.standard_normal(n_samples) * 10 ** rng.uniform(-5, -2.5)
    return (samples / peak * 10 ** (rng.uniform(-40, -3) / 20) + floor).astype(np.float32)


def _pad(samples: Samples, rng: random.Random) -> Samples:
    before, after = (round(rng.expovariate(1 / 0.2) * SAMPLE_RATE) for _ in range(2))
    limit = SAMPLE_RATE
    return np.pad(samples, (min(before, limit), min(after, limit)))


def _reverberate(samples: Samples, rng: random.Random) -> Samples:
    """Convolves with a synthetic room: exponentially decaying noise behind the direct sound."""
    from scipy.signal import fftconvolve

    decay_s = rng.uniform(0.08, 0.5)
    n_tail = round(decay_s * SAMPLE_RATE)
    tail = np.random.default_rng(rng.getrandbits(32)).standard_normal(n_tail)
    tail *= np.exp(-6.9 * np.arange(n_tail) / n_tail) * rng.uniform(0.005, 0.08)
    tail[0] = 1.0
    return np.asarray(fftconvolve(samples, tail)[: len(samples) + n_tail // 3], np.float32)


def _seed_libraries(rng: random.Random) -> None:
    # audiomentations draws from the global generators.
    random.seed(rng.getrandbits(32))
    np.random.seed(rng.getrandbits(32))  # noqa: NPY002
