"""What callers send: sentences of the pocket corpus, single or joined to a length, as files."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import av
import numpy as np
from numpy.typing import NDArray

from compress import dataset
from compress.audio import SAMPLE_RATE, Samples
from compress.dataset import Utterance
from compress.prompt import LANGUAGES
from compress.recipe import Data

Domain = Literal["talks", "daily", "phone"]
Format = Literal["wav", "mp3"]

DOMAIN: Final[Domain] = "daily"
_PAUSE_S: Final = 0.3
# container, codec, samples a second, layout, sample format: speech as engines like it, and as a recorder makes it
_FORMATS: Final[dict[Format, tuple[str, str, int, str, str]]] = {
    "wav": ("wav", "pcm_s16le", SAMPLE_RATE, "mono", "s16"),
    "mp3": ("mp3", "libmp3lame", 48_000, "stereo", "s16p"),
}


@dataclass(frozen=True)
class Recording:
    """One file to translate.

    Attributes:
        audio: the file.
        seconds: of sound.
        to_language: code of the target language.
        samples: the sound before it was encoded, shape (n_samples,), mono, at `SAMPLE_RATE`.
    """

    audio: bytes = field(repr=False)
    seconds: float
    to_language: str
    samples: Samples = field(repr=False)


def utterances(n: int, domain: Domain = DOMAIN) -> Sequence[Utterance]:
    """Utterances of the report split, half of them by voices that were never heard in training.

    Raises:
        RecipeError: a synthesiser is missing, or the corpus has fewer.
    """
    data = Data(source="pocket", domain=domain, n_report=-(-n // 2))
    return dataset.load(data, "de", "report").utterances[:n]


def single(n: int, *, languages: Sequence[str] = tuple(LANGUAGES), audio_format: Format = "wav") -> list[Recording]:
    """One sentence each, in turn into each language."""
    clips = [one.audio.load() for one in utterances(n)]
    return [
        Recording(encoded(clip, audio_format), len(clip) / SAMPLE_RATE, code, clip)
        for clip, code in zip(clips, itertools.cycle(languages), strict=False)
    ]


def of_length(seconds: float, n: int, to_language: str) -> list[Recording]:
    """Sentences with short pauses, cut after so many seconds wherever that is: the same ones every time."""
    length = round(seconds * SAMPLE_RATE)
    pause = round(_PAUSE_S * SAMPLE_RATE)
    clips = [np.pad(one.audio.load(), (0, pause)) for one in utterances(n)]
    found = []
    for number in range(n):
        parts: list[Samples] = []
        # each begins with another sentence
        left = itertools.cycle(clips[number:] + clips[:number])
        while sum(map(len, parts)) < length:
            parts.append(next(left))
        samples = np.concatenate(parts)[:length]
        found.append(Recording(encoded(samples, "wav"), seconds, to_language, samples))
    return found


def encoded(samples: Samples, audio_format: Format) -> bytes:
    """A file: 16 kHz mono wav, or 48 kHz stereo mp3."""
    container_name, codec, rate, layout, sample_format = _FORMATS[audio_format]
    file = io.BytesIO()
    pcm: NDArray[Any] = (np.clip(samples, -1, 1) * 32767).astype(np.int16)
    with av.open(file, "w", format=container_name) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        resampler = av.AudioResampler(format=sample_format, layout=layout, rate=rate, frame_size=stream.frame_size)
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for made in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(made))
        container.mux(stream.encode(None))
    return file.getvalue()
