"""Files in, speech out, without holding up the event loop."""

from __future__ import annotations

import asyncio
import io
import threading
from pathlib import Path

import numpy as np
import pytest

from compress.audio import N_SAMPLES, SAMPLE_RATE, Samples, decode
from compress.errors import AudioTooLong, CorruptAudio, EmptyAudio, UnsupportedAudio
from serve.recording import Guess, Heard, Recording, Speech
from tests.serve.servers import PATIENCE_S
from tests.serve.speech import sentences, silence, talk, wav


class File(io.BytesIO):
    """A file that knows how much of it was read."""

    n_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.n_read += len(data)
        return data


class EndlessFile(File):
    """A head, then noise for ever: neither a demuxer nor a decoder comes to an end on its own."""

    def read(self, size: int | None = -1) -> bytes:
        self.n_read += 1
        size = size or 0
        return super().read(size).ljust(size, b"OggS\1\2\3\xff\xfb\x90")


def heard(data: bytes, max_s: float | None = None) -> list[Heard | Guess | Speech]:
    """All events of a recording."""

    async def listen() -> list[Heard | Guess | Speech]:
        file = io.BytesIO(data)
        recording = Recording(file, max_s)
        try:
            return [event async for event in recording]
        finally:
            recording.close()
            assert file.closed

    return asyncio.run(listen())


def speech(events: list[Heard | Guess | Speech]) -> list[Speech]:
    return [event for event in events if isinstance(event, Speech)]


@pytest.fixture(scope="module")
def said(clips: list[Path]) -> list[Samples]:
    return sentences(clips)


def test_a_clip_with_one_stretch_of_speech_is_left_as_it_is(said: list[Samples]) -> None:
    data = wav(talk(said[:1], 2)[0])
    guess, found = heard(data)
    assert isinstance(guess, Guess)
    assert isinstance(found, Speech)
    np.testing.assert_array_equal(found.samples, decode(data))
    assert guess.audio_s == len(found.samples) / SAMPLE_RATE
    assert found.start_s == pytest.approx(1.8, abs=0.2)
    assert found.end_s == pytest.approx(guess.audio_s - 1.8, abs=0.2)


def test_a_clip_with_pauses_is_cut_at_them(said: list[Samples]) -> None:
    samples, wanted = talk(said, 1)
    found = speech(heard(wav(samples)))
    assert len(found) == len(wanted)
    for one, (start, end) in zip(found, wanted, strict=True):
        assert one.start_s < start / SAMPLE_RATE
        assert one.end_s > end / SAMPLE_RATE
        assert len(one.samples) == round((one.end_s - one.start_s) * SAMPLE_RATE)


def test_a_long_recording_is_heard_step_by_step(said: list[Samples]) -> None:
    samples, wanted = talk(said * 8, 1)
    assert len(samples) > 2 * N_SAMPLES
    events = heard(wav(samples))
    lengths = [event.audio_s for event in events if isinstance(event, Heard)]
    assert len(lengths) > 10
    assert lengths == sorted(lengths)
    assert lengths[-1] == len(samples) / SAMPLE_RATE
    found = speech(events)
    assert len(found) == len(wanted)
    assert [one.start_s for one in found] == sorted(one.start_s for one in found)


def test_no_more_is_read_than_is_asked_for(said: list[Samples]) -> None:
    async def first_speech() -> None:
        file = File(wav(talk(said * 24, 1)[0]))
        recording = Recording(file)
        async for event in recording:
            if isinstance(event, Speech):
                break
        await asyncio.sleep(0.2)  # time that a thread of its own would use
        assert file.n_read < len(file.getvalue()) / 3
        recording.close()
        assert file.closed

    asyncio.run(first_speech())


@pytest.mark.parametrize("seconds", [0.1, 5, 40])
def test_silence_is_heard_but_is_no_speech(seconds: float) -> None:
    events = heard(wav(silence(seconds)))
    assert events
    assert not speech(events)
    last = events[-1]
    assert isinstance(last, (Heard, Guess))
    assert last.audio_s == seconds


def test_a_short_recording_is_told_before_it_is_searched(said: list[Samples]) -> None:
    samples, _ = talk(said[:1], 1)
    guess, found = heard(wav(samples))
    assert isinstance(guess, Guess)
    assert isinstance(found, Speech)
    assert found.samples is guess.samples, "the guess was right"
    guess, *parts = heard(wav(talk(said[:2], 0.8)[0]))
    assert isinstance(guess, Guess)
    assert len(parts) == 2, "it was wrong"
    long = np.concatenate([samples, silence(8)])
    assert not any(isinstance(event, Guess) for event in heard(wav(long)))


def test_what_is_no_audio_is_refused_first() -> None:
    for data, error in ((b"", EmptyAudio), (b"text" * 50, UnsupportedAudio), (b"fLaC" + bytes(900), CorruptAudio)):
        with pytest.raises(error):
            heard(data)


def test_longer_than_allowed_is_refused() -> None:
    assert heard(wav(silence(2)), max_s=2)
    with pytest.raises(AudioTooLong):
        heard(wav(silence(2.1)), max_s=2)


@pytest.mark.parametrize("head", [wav(silence(0.1))[:40] + b"\xff\xff\xff\xff", b"OggS", b"ID3\4"])
def test_closing_ends_the_work_in_the_thread(head: bytes) -> None:
    async def leave() -> None:
        file = EndlessFile(head)
        recording = Recording(file)

        async def listen() -> None:
            async for _ in recording:
                pass

        listening = asyncio.create_task(listen())
        while file.n_read < 5:
            assert not listening.done()
            await asyncio.sleep(0.01)
        listening.cancel()
        await asyncio.wait({listening})
        recording.close()
        async with asyncio.timeout(PATIENCE_S):
            while not file.closed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    threads = threading.active_count()
    asyncio.run(leave())
    assert threading.active_count() == threads
