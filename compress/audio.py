"""Audio bytes in, mono float32 samples at the model's rate out.

Every rate of the model's front end is derived from three constants, as Whisper defines them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray

from compress.errors import AudioTooLong, CorruptAudio, EmptyAudio, UnsupportedAudio

SAMPLE_RATE: Final = 16_000  # Hz
HOP_LENGTH: Final = 160  # samples between mel frames
WINDOW_S: Final = 30  # the encoder's window

FRAMES_PER_SECOND: Final = SAMPLE_RATE // HOP_LENGTH  # 100 mel frames
N_SAMPLES: Final = WINDOW_S * SAMPLE_RATE  # 480,000 samples in a window
N_FRAMES: Final = WINDOW_S * FRAMES_PER_SECOND  # 3,000 mel frames in a window

Samples = NDArray[np.float32]

# The demuxer is chosen from magic bytes and forced, never probed: a playlist posing as audio could
# otherwise make the decoder open addresses of the sender's choice.
_DEMUXERS: Final = {
    "wav": "wav",
    "flac": "flac",
    "mp3": "mp3",
    "ogg": "ogg",
    "m4a": "mov",
    "webm": "matroska",
}
FORMATS: Final = tuple(_DEMUXERS)


def sniff(data: bytes) -> str:
    """Names the container by its magic bytes: one of `FORMATS`.

    Raises:
        EmptyAudio: no bytes at all.
        UnsupportedAudio: anything else.
    """
    if not data:
        raise EmptyAudio("the audio is empty (0 bytes)")
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return "wav"
    if data[:4] == b"fLaC":
        return "flac"
    if data[:4] == b"OggS":
        return "ogg"
    if data[4:8] == b"ftyp":
        return "m4a"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "webm"
    # An MPEG frame starts with eleven set bits, then version and layer; layer 00 is reserved (AAC's ADTS).
    if data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0 and data[1] & 0x06):
        return "mp3"
    raise UnsupportedAudio(f"not an audio file we can read; supported formats: {', '.join(FORMATS)}")


def decode(source: bytes | Path, max_s: float | None = None) -> Samples:
    """Decodes any supported container, at any rate and channel count.

    Args:
        source: the file's bytes, or its path.
        max_s: refuse audio longer than this, in seconds, as soon as that much has been decoded.

    Returns:
        Samples in [-1, 1], shape (n_samples,), mono, at `SAMPLE_RATE`.

    Raises:
        EmptyAudio, UnsupportedAudio, CorruptAudio, AudioTooLong: see `errors`.
    """
    data = source.read_bytes() if isinstance(source, Path) else source
    container_name = sniff(data)
    limit = None if max_s is None else round(max_s * SAMPLE_RATE)
    blocks: list[Samples] = []
    n_samples = 0
    try:
        # Tags in an encoding other than UTF-8 are common and none of our business.
        with av.open(io.BytesIO(data), "r", format=_DEMUXERS[container_name], metadata_errors="replace") as container:
            if not container.streams.audio:
                raise UnsupportedAudio(f"the {container_name} file has no audio stream")
            for block in _resampled(container.decode(container.streams.audio[0])):
                blocks.append(block)
                n_samples += len(block)
                if limit is not None and n_samples > limit:
                    raise AudioTooLong(f"the audio is longer than the limit of {max_s:g} s")
    except av.error.FFmpegError as error:
        raise CorruptAudio(f"the {container_name} file cannot be decoded: {error.strerror or error}") from error
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if not samples.size:
        raise EmptyAudio(f"the {container_name} file holds no audio samples")
    return np.nan_to_num(np.clip(samples, -1.0, 1.0))


def _resampled(frames: Iterable[av.AudioFrame]) -> Iterator[Samples]:
    """Mono blocks at the model's rate; joined MP3s change their own rate or channels on the way."""
    for _, alike in groupby(frames, key=lambda frame: (frame.format.name, frame.layout.name, frame.sample_rate)):
        # Left to ffmpeg, two channels would become 0.7 (left + right), and loud music clip.
        resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
        for frame in chain(alike, [None]):
            yield from map(_mono, resampler.resample(frame))


def _mono(frame: av.AudioFrame) -> Samples:
    return np.asarray(frame.to_ndarray().mean(0), np.float32)
