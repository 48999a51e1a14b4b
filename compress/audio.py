"""Audio bytes in, mono float32 samples at the model's rate out.

Every rate of the model's front end is derived from three constants, as Whisper defines them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import BinaryIO, Final

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
_MAGIC_BYTES: Final = 12  # that `sniff` looks at
# ffmpeg would look into twenty packets for compressed sound that poses as wav, which takes longer than to decode it
_OPTIONS: Final = {"wav": {"max_probe_packets": "1", "max_size": "8192"}}
_BLOCK: Final = SAMPLE_RATE  # samples handed on at a time, or a few more: numpy takes as long for a few as for many

_TELL_THEIR_LENGTH: Final = ("flac", "ogg", "m4a", "webm")  # the others make ffmpeg guess
_RATES: Final = range(1_000, 768_001)  # Hz; resampling from less would multiply the samples without measure
_MAX_VALUES_PER_S: Final = 2 * 192_000  # on average, before resampling: stereo at the highest rate in use


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
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        return np.concatenate(list(decode_blocks(file, max_s)))


def decode_blocks(
    file: BinaryIO, max_s: float | None = None, stop: Callable[[], bool] = lambda: False
) -> Iterator[Samples]:
    """Decodes a file piece by piece; of a long one, little is in memory at a time.

    Args:
        file: can seek; is read in the thread that asks for the next block.
        max_s: refuse audio longer than this, in seconds: at once if the file says so, else when that much has come.
        stop: asked before every read and every block; from the first True on, the file seems to end here.

    Yields:
        Samples as `decode` returns them, each block non-empty.

    Raises:
        EmptyAudio, UnsupportedAudio, CorruptAudio, AudioTooLong: see `errors`.
    """
    file.seek(0)
    name = sniff(file.read(_MAGIC_BYTES))
    file.seek(0)
    n_samples = 0
    try:
        # Tags in an encoding other than UTF-8 are common and none of our business.
        with av.open(
            _Source(file, stop), "r", format=_DEMUXERS[name], options=_OPTIONS.get(name), metadata_errors="replace"
        ) as container:
            if not container.streams.audio:
                raise UnsupportedAudio(f"the {name} file has no audio stream")
            if max_s is not None and name in _TELL_THEIR_LENGTH and _claimed_s(container) > max_s + 1:
                raise _too_long(max_s)
            frames = _bounded(container.decode(container.streams.audio[0]), name, max_s)
            for block in _resampled(frames):
                n_samples += len(block)
                if max_s is not None and n_samples > round(max_s * SAMPLE_RATE):
                    raise _too_long(max_s)
                if stop():
                    return
                yield np.nan_to_num(np.clip(block, -1.0, 1.0))
    except av.error.FFmpegError as error:
        if not stop():
            raise CorruptAudio(f"the {name} file cannot be decoded: {error.strerror or error}") from error
    if not n_samples and not stop():
        raise EmptyAudio(f"the {name} file holds no audio samples")


class _Source:
    """A file as PyAV reads it, which ends when it is asked to.

    Nothing is raised in here: PyAV keeps such an exception for the thread's next failure if the demuxer hides it.
    """

    def __init__(self, file: BinaryIO, stop: Callable[[], bool]) -> None:
        self._file = file
        self._stop = stop
        self.tell = file.tell

    def read(self, n_bytes: int) -> bytes:
        return b"" if self._stop() else self._file.read(n_bytes)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)


def _claimed_s(container: av.container.InputContainer) -> float:
    """Seconds that a file says it lasts, which is roughly what it does; 0 if it does not say."""
    return (container.duration or 0) / av.time_base


def _too_long(max_s: float) -> AudioTooLong:
    return AudioTooLong(f"the audio is longer than the limit of {max_s:g} s")


def _bounded(frames: Iterable[av.AudioFrame], name: str, max_s: float | None) -> Iterator[av.AudioFrame]:
    """The frames, as long as they are such as come from a recording."""
    n_values = 0
    for frame in frames:
        if frame.sample_rate not in _RATES:
            raise CorruptAudio(f"the {name} file claims a sample rate of {frame.sample_rate} Hz")
        n_values += frame.samples * len(frame.layout.channels)
        if max_s is not None and n_values > max(1, max_s) * _MAX_VALUES_PER_S:
            raise AudioTooLong(f"the audio unpacks to more than stereo at 192 kHz would have in {max_s:g} s")
        yield frame


def _resampled(frames: Iterable[av.AudioFrame]) -> Iterator[Samples]:
    """Mono blocks at the model's rate, none empty; joined MP3s change their own rate or channels on the way."""
    for _, alike in groupby(frames, key=lambda frame: (frame.format.name, frame.layout.name, frame.sample_rate)):
        # Left to ffmpeg, two channels would become 0.7 (left + right), and loud music clip.
        # Interleaved, because PyAV reads past the end of eight separate planes, and the process dies.
        resampler = av.AudioResampler(format="flt", rate=SAMPLE_RATE)
        held: list[av.AudioFrame] = []
        n_held = 0
        for frame in chain(alike, [None]):
            for made in resampler.resample(frame):
                held.append(made)
                n_held += made.samples
            if n_held >= _BLOCK or (frame is None and n_held):
                yield _mono(held)
                held, n_held = [], 0


def _mono(frames: Sequence[av.AudioFrame]) -> Samples:
    interleaved = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return np.asarray(interleaved.reshape(-1, len(frames[0].layout.channels)).mean(1), np.float32)
