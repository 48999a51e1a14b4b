"""Writes samples into every container that `compress.audio` reads."""

from __future__ import annotations

import io
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray

# container as a user names it: ffmpeg's muxer, ffmpeg's encoder, and whether the encoder loses anything
CODECS: Final = {
    "wav": ("wav", "pcm_s16le", False),
    "flac": ("flac", "flac", False),
    "mp3": ("mp3", "libmp3lame", True),
    "ogg": ("ogg", "vorbis", True),
    "opus": ("ogg", "libopus", True),
    "m4a": ("ipod", "aac", True),
    "webm": ("webm", "libopus", True),
}
_LAYOUTS: Final = {1: "mono", 2: "stereo"}


def encode(channels: NDArray[np.float64], rate: int, name: str, options: dict[str, str] | None = None) -> bytes:
    """The bytes of a file; `channels` has shape (n_channels, n_samples)."""
    muxer, codec, _ = CODECS[name]
    buffer = io.BytesIO()
    layout = _LAYOUTS[len(channels)]
    with av.open(buffer, "w", format=muxer, options=options or {}) as container:
        # ffmpeg calls its own Vorbis encoder experimental
        stream = container.add_stream(codec, rate=rate, layout=layout, options={"strict": "experimental"})
        assert isinstance(stream, av.AudioStream)
        if name in ("mp3", "m4a", "ogg"):
            stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(channels.astype(np.float32), format="fltp", layout=layout)
        frame.sample_rate = rate
        for source in (frame, None):
            container.mux(stream.encode(source))
    return buffer.getvalue()


def encode_video() -> bytes:
    """An MP4 that holds a picture and no sound."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for source in (picture, None):
            container.mux(stream.encode(source))
    return buffer.getvalue()
