"""Silero's detector: how likely there is speech in each frame of a stream."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

FRAME: Final = 512  # samples judged at a time, 32 ms

_CONTEXT: Final = 64  # samples of the frame before that the network sees again
_WIDTH: Final = 128  # of its recurrent state
_TOGETHER: Final = 512  # frames a call; what it takes meanwhile grows with them
_SILENT: Final = 1e-4  # three steps of 16 bits: a switched-off microphone, which is worth no computing

Frames = NDArray[np.float32]  # shape (n_frames, FRAME), mono at `compress.audio.SAMPLE_RATE`
Voice = NDArray[np.float32]  # shape (n_frames,), a probability a frame


class Silero:
    """The network on one stream, any number of frames at a time.

    It is the sequence form of Silero VAD 6 (github.com/snakers4/silero-vad): one call for many frames, during all of
    which other threads run.  The library's own class for it forgets the stream from call to call.
    """

    def __init__(self) -> None:
        self._network = _network()
        self._hidden = self._cell = np.zeros((1, 1, _WIDTH), np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)

    def __call__(self, frames: Frames) -> Voice:
        """The probabilities of speech in the stream's next frames."""
        voice = np.zeros(len(frames), np.float32)
        loud = np.flatnonzero(np.abs(frames).max(axis=1, initial=0.0) >= _SILENT)
        for at in range(0, len(loud), _TOGETHER):
            voice[loud[at : at + _TOGETHER]] = self._judge(frames[loud[at : at + _TOGETHER]])
        return voice

    def _judge(self, frames: Frames) -> Voice:
        contexts = np.concatenate([self._context[None], frames[:-1, -_CONTEXT:]])
        voice, self._hidden, self._cell = self._network.run(
            ["speech_probs", "hn", "cn"],
            {"input": np.concatenate([contexts, frames], axis=1), "h": self._hidden, "c": self._cell},
        )
        self._context = frames[-1, -_CONTEXT:].copy()
        return np.asarray(voice, np.float32).reshape(-1)


@cache
def _network() -> onnxruntime.InferenceSession:
    # the package is not imported: it would leave torch a single thread
    package = find_spec("silero_vad")
    assert package is not None, "a dependency of the server"
    assert package.origin is not None, "it is a package with a file of its own"
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    model = Path(package.origin).with_name("data") / "silero_vad_16k_sequence.onnx"
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
