"""Against the same network as its authors publish it for streams, a frame at a time."""

from __future__ import annotations

import threading
from importlib.metadata import files
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from compress.audio import SAMPLE_RATE, Samples
from serve.detector import FRAME, Frames, Silero, Voice
from tests.serve.speech import sentences, talk


@pytest.fixture(scope="module")
def frames(clips: list[Path]) -> Frames:
    """Sentences, the pauses between which are no digital silence."""
    samples, _ = talk(sentences(clips) * 2, 0.6)
    noise = np.random.default_rng(0).normal(0, 1e-3, len(samples)).astype(np.float32)
    return as_frames(samples + noise)


def as_frames(samples: Samples) -> Frames:
    return samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)


def frame_by_frame(frames: Frames) -> Voice:
    """What the published network says, fed as its authors feed it."""
    listed = files("silero-vad") or []
    model = next(file for file in listed if file.name == "silero_vad.onnx").locate()
    network = onnxruntime.InferenceSession(Path(str(model)), providers=["CPUExecutionProvider"])
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32)
    rate = np.array(SAMPLE_RATE, np.int64)
    found = []
    for frame in frames:
        window = np.concatenate([context, frame])[None]
        voice, state = network.run(None, {"input": window, "state": state, "sr": rate})
        found.append(voice.item())
        context = frame[-64:]
    return np.array(found, np.float32)


def test_it_says_what_the_published_network_says(frames: Frames) -> None:
    assert len(frames) > 512, "more than one call"
    expected = frame_by_frame(frames)
    assert expected.min() < 0.1 < 0.9 < expected.max()
    np.testing.assert_allclose(Silero()(frames), expected, atol=1e-4)


@pytest.mark.parametrize("n_together", [1, 3, 100])
def test_a_stream_may_come_in_parts(frames: Frames, n_together: int) -> None:
    frames = frames[:200]
    detector = Silero()
    parts = [detector(frames[at : at + n_together]) for at in range(0, len(frames), n_together)]
    np.testing.assert_allclose(np.concatenate(parts), Silero()(frames), atol=1e-5)


def test_digital_silence_is_passed_over(frames: Frames) -> None:
    speech, silence = frames[:60], np.zeros((40, FRAME), np.float32)
    voice = Silero()(np.concatenate([silence, speech[:30], silence, speech[30:], silence]))
    np.testing.assert_array_equal(voice[:40], 0)
    np.testing.assert_allclose(voice[voice > 0], Silero()(speech), atol=1e-5)
    assert Silero()(silence).tolist() == [0.0] * 40
    assert len(Silero()(silence[:0])) == 0


def test_streams_in_several_threads_do_not_mix(frames: Frames) -> None:
    expected = Silero()(frames)
    found: dict[int, Voice] = {}

    def listen(number: int) -> None:
        detector = Silero()
        found[number] = np.concatenate([detector(frames[at : at + 7]) for at in range(0, len(frames), 7)])

    threads = [threading.Thread(target=listen, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for voice in found.values():
        np.testing.assert_allclose(voice, expected, atol=1e-5)
