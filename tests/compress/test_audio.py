"""Every container at several rates, against soxr; and everything that is no audio, against its error."""

from __future__ import annotations

import io
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from compress import audio
from compress.audio import FORMATS, N_FRAMES, N_SAMPLES, SAMPLE_RATE, decode, decode_blocks, sniff
from compress.errors import AudioError, AudioTooLong, CorruptAudio, EmptyAudio, UnsupportedAudio
from tests.compress.containers import CODECS, encode, encode_video

RATES = (8_000, 16_000, 22_050, 44_100, 48_000)
OPUS_RATES = (8_000, 16_000, 48_000)  # what libopus takes
DURATION_S = 1.2


def chirp(rate: int, n_channels: int, duration_s: float = DURATION_S) -> NDArray[np.float64]:
    """A swelling tone that rises from 200 Hz to 1 kHz, shape (n_channels, n_samples); softer on the right."""
    time = np.arange(round(duration_s * rate)) / rate
    sweep = np.sin(2 * np.pi * (200 * time + 400 / duration_s * time**2)) * np.sin(np.pi * time / duration_s) ** 2
    return np.stack([sweep * level for level in (0.6, 0.3)[:n_channels]])


def expected(rate: int, n_channels: int) -> NDArray[np.float64]:
    return np.asarray(soxr.resample(chirp(rate, n_channels).mean(0), rate, SAMPLE_RATE))


def similarity(found: NDArray[np.float32], wanted: NDArray[np.float64]) -> float:
    """Signal-to-error ratio in dB at the best delay within 150 ms: lossy coders pad in front."""
    best = -np.inf
    padded = np.concatenate([found, np.zeros(len(wanted))])
    for delay in range(round(0.15 * SAMPLE_RATE)):
        error = float(np.square(padded[delay : delay + len(wanted)] - wanted).sum())
        best = max(best, 10 * np.log10(float(np.square(wanted).sum()) / max(error, 1e-12)))
    return best


@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize(
    ("name", "rate"), [(n, r) for n in CODECS for r in (OPUS_RATES if n in ("opus", "webm") else RATES)]
)
def test_every_container_gives_the_samples_that_were_put_in(name: str, rate: int, n_channels: int) -> None:
    # ffmpeg's own Vorbis encoder is stereo only: two equal channels are mono to a listener
    n_copies = 2 if (name, n_channels) == ("ogg", 1) else 1
    sound = np.repeat(chirp(rate, n_channels), n_copies, axis=0)
    samples = decode(encode(sound, rate, name))
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    wanted = expected(rate, n_channels)
    lossy = CODECS[name][2]
    if lossy:
        assert similarity(samples, wanted) > 15
        # within two blocks of the coder
        assert abs(len(samples) - len(wanted)) < 2 * 2048 / rate * SAMPLE_RATE + 16
    else:
        assert abs(len(samples) - len(wanted)) <= 2
        n = min(len(samples), len(wanted))
        np.testing.assert_allclose(samples[:n], wanted[:n], atol=2e-3)


def test_a_path_is_read_like_its_bytes(tmp_path: Path) -> None:
    data = encode(chirp(SAMPLE_RATE, 1), SAMPLE_RATE, "wav")
    path = tmp_path / "clip.wav"
    path.write_bytes(data)
    np.testing.assert_array_equal(decode(path), decode(data))


def test_sixteen_bits_at_the_models_rate_pass_unchanged() -> None:
    pcm = np.random.default_rng(0).integers(-32768, 32767, 4000, dtype=np.int16)
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 8000, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16, b"data", 8000
    )
    np.testing.assert_array_equal(decode(header + pcm.tobytes()), pcm.astype(np.float32) / 32768)


def test_two_loud_channels_do_not_clip() -> None:
    loud = np.repeat(0.9 * chirp(SAMPLE_RATE, 1) / 0.6, 2, axis=0)
    samples = decode(encode(loud, SAMPLE_RATE, "wav"))
    np.testing.assert_allclose(samples, loud[0], atol=1e-4)


def float_wav(samples: NDArray[np.float32]) -> bytes:
    size = samples.nbytes
    sizes = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 3, 1, 16000, 64000, 4, 32, b"data", size
    )
    return sizes + samples.tobytes()


def test_what_comes_out_is_finite_and_within_one() -> None:
    wild = np.array([0.5, 2.0, -7.0, np.nan, np.inf, -np.inf, 0.25], np.float32)
    samples = decode(float_wav(wild))
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1
    assert samples[0] == 0.5
    assert samples[-1] == 0.25


def test_the_rates_follow_whispers_constants() -> None:
    assert (SAMPLE_RATE, N_SAMPLES, N_FRAMES) == (16_000, 480_000, 3_000)
    assert audio.FRAMES_PER_SECOND == 100


# --- what is no audio -------------------------------------------------------------------------------------------


def test_no_bytes_are_empty_audio() -> None:
    with pytest.raises(EmptyAudio, match="0 bytes"):
        decode(b"")


def test_a_header_without_samples_is_empty_audio() -> None:
    with pytest.raises(EmptyAudio, match="no audio samples"):
        decode(float_wav(np.zeros(0, np.float32)))


@pytest.mark.parametrize(
    "junk", [b"this is text, whatever its name says" * 50, b"\0" * 1000, b"R", b"\xff", b"\x89PNG\r\n\x1a\n"]
)
def test_junk_is_unsupported_and_the_message_names_what_is_not(junk: bytes) -> None:
    with pytest.raises(UnsupportedAudio, match=", ".join(FORMATS)):
        decode(junk)


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/secret.wav\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    ],
)
def test_playlists_are_refused_by_bytes_and_by_any_name(playlist: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(playlist)
    for source in (playlist, path):
        with pytest.raises(UnsupportedAudio):
            decode(source)


@pytest.mark.parametrize(
    "magic", [b"RIFF\x24\0\0\0WAVE", b"fLaC", b"OggS", b"\0\0\0\x18ftypM4A ", b"\x1a\x45\xdf\xa3", b"ID3\x04"]
)
def test_a_playlist_behind_magic_bytes_opens_nothing(magic: bytes) -> None:
    # the demuxer is forced, so what follows is never probed
    with pytest.raises(CorruptAudio):
        decode(magic + b"\n#EXTM3U\nfile:///etc/passwd\nffconcat version 1.0\nfile /etc/passwd\n" * 40)


@pytest.mark.parametrize("name", CODECS)
def test_magic_bytes_beat_the_name(name: str, tmp_path: Path) -> None:
    data = encode(chirp(48_000, 2), 48_000, name)
    liar = tmp_path / ("clip.wav" if name == "mp3" else "clip.mp3")
    liar.write_bytes(data)
    assert sniff(data) == {"opus": "ogg"}.get(name, name)
    np.testing.assert_array_equal(decode(liar), decode(data))


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused_or_shorter(name: str, keep: float) -> None:
    data = encode(chirp(48_000, 2), 48_000, name)
    try:
        samples = decode(data[: round(len(data) * keep)])
    except CorruptAudio:
        return
    # one block of the coder at most may be made up
    assert len(samples) < (keep + 0.1) * DURATION_S * SAMPLE_RATE + 4096


@pytest.mark.parametrize("name", CODECS)
def test_only_magic_bytes_are_corrupt(name: str) -> None:
    data = encode(chirp(48_000, 2), 48_000, name)
    with pytest.raises(CorruptAudio, match="cannot be decoded"):
        decode(data[:12])


@pytest.mark.parametrize("name", CODECS)
def test_damage_never_escapes_as_anything_but_an_audio_error(name: str) -> None:
    data = encode(chirp(48_000, 2, 0.3), 48_000, name)
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        # headers are the interesting part
        for position in rng.integers(12, rng.choice([min(600, len(data)), len(data)]), rng.integers(1, 20)):
            damaged[position] = rng.integers(256)
        try:
            samples = decode(bytes(damaged), max_s=30)
        except AudioError:
            continue
        assert np.isfinite(samples).all()


def test_an_unknown_codec_is_corrupt() -> None:
    data = bytearray(encode(chirp(SAMPLE_RATE, 1), SAMPLE_RATE, "wav"))
    data[20:22] = struct.pack("<H", 0x9999)
    with pytest.raises(CorruptAudio):
        decode(bytes(data))


def test_a_picture_without_sound_is_unsupported() -> None:
    with pytest.raises(UnsupportedAudio, match="no audio stream"):
        decode(encode_video())


def test_tags_in_latin_1_do_no_harm() -> None:
    data = encode(chirp(SAMPLE_RATE, 1), SAMPLE_RATE, "wav")
    artist = "Käthe Müller".encode("latin-1")
    info = (
        b"LIST" + struct.pack("<I", 4 + 8 + len(artist)) + b"INFO" + b"IART" + struct.pack("<I", len(artist)) + artist
    )
    at = data.index(b"data")
    tagged = data[:4] + struct.pack("<I", len(data) - 8 + len(info)) + data[8:at] + info + data[at:]
    np.testing.assert_array_equal(decode(tagged), decode(data))


def test_joined_mp3s_may_change_rate_and_channels() -> None:
    bare = {"write_xing": "0", "id3v2_version": "0"}
    parts = [encode(chirp(rate, n), rate, "mp3", bare) for rate, n in ((44_100, 1), (44_100, 2), (16_000, 1))]
    whole = decode(b"".join(parts))
    assert len(whole) == pytest.approx(sum(len(decode(part)) for part in parts), rel=0.05)


# --- the limit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
def test_longer_than_the_limit_is_refused_and_both_are_named(name: str) -> None:
    data = encode(chirp(48_000, 2), 48_000, name)
    with pytest.raises(AudioTooLong, match=r"longer than the limit of 0\.5 s"):
        decode(data, max_s=0.5)


def test_exactly_the_limit_is_not_too_long() -> None:
    data = encode(chirp(SAMPLE_RATE, 1, 1.0), SAMPLE_RATE, "wav")
    assert len(decode(data, max_s=1.0)) == SAMPLE_RATE
    with pytest.raises(AudioTooLong):
        decode(data, max_s=1.0 - 1 / SAMPLE_RATE)


def test_a_small_file_of_a_long_silence_is_not_decoded_to_its_end() -> None:
    # ten minutes of zeros are a FLAC of a few kilobytes
    data = encode(np.zeros((1, 600 * 8_000)), 8_000, "flac")
    with pytest.raises(AudioTooLong):
        decode(data, max_s=30)


class CountingFile(io.BytesIO):
    """A file that knows how many of its bytes were read."""

    n_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.n_read += len(data)
        return data


@cache
def a_minute(name: str) -> bytes:
    """A file of noise, which no coder makes small."""
    n_channels = 2 if name == "ogg" else 1  # see above
    return encode(np.random.default_rng(0).normal(0, 0.1, (n_channels, 60 * 8_000)), 8_000, name)


@pytest.mark.parametrize("name", ["flac", "opus", "m4a"])
def test_a_file_that_tells_its_length_is_refused_before_anything_is_decoded(name: str) -> None:
    file = CountingFile(a_minute(name))
    with pytest.raises(AudioTooLong, match=r"longer than the limit of 30 s"):
        next(decode_blocks(file, max_s=30))
    assert file.n_read < len(file.getvalue()) / 2


def wav_claiming(rate: int, n_channels: int, n_bytes: int) -> bytes:
    sizes = (b"RIFF", 36 + n_bytes, b"WAVE", b"fmt ", 16, 1, n_channels, rate, rate * n_channels, n_channels, 8)
    return struct.pack("<4sI4s4sIHHIIHH", *sizes) + struct.pack("<4sI", b"data", n_bytes) + bytes(n_bytes)


@pytest.mark.parametrize("rate", [1, 999, 2_000_000])
def test_a_rate_that_no_recording_has_is_corrupt(rate: int) -> None:
    # at 1 Hz, a kilobyte would become 16 million samples
    with pytest.raises(CorruptAudio, match=f"claims a sample rate of {rate} Hz"):
        decode(wav_claiming(rate, 1, 8_000))


@pytest.mark.parametrize("n_channels", [6, 7, 8, 9, 16])
def test_many_channels_do_no_harm(n_channels: int) -> None:
    # exactly eight in separate planes end the process in PyAV
    assert len(decode(wav_claiming(48_000, n_channels, 4_800 * n_channels))) == SAMPLE_RATE // 10


def test_what_unpacks_to_too_much_for_its_length_is_refused() -> None:
    data = wav_claiming(192_000, 8, 8 * 2 * 192_000)
    assert len(decode(data)) == 2 * SAMPLE_RATE
    with pytest.raises(AudioTooLong, match="more than stereo at 192 kHz"):
        decode(data, max_s=2.5)


# --- piece by piece ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
def test_a_long_file_is_read_as_it_is_decoded(name: str) -> None:
    file = CountingFile(a_minute(name))
    blocks = decode_blocks(file)
    first = next(blocks)
    assert file.n_read < len(file.getvalue()) / 2
    sizes = [len(first), *map(len, blocks)]
    assert min(sizes) > 0
    assert max(sizes) < 2 * SAMPLE_RATE
    assert sum(sizes) == pytest.approx(60 * SAMPLE_RATE, rel=0.01)


@pytest.mark.parametrize("name", CODECS)
def test_decoding_ends_where_it_is_told_to(name: str) -> None:
    for n_answers in (0, 1, 2, 5, 40):
        n_asked = 0

        def stop(n_answers: int = n_answers) -> bool:
            nonlocal n_asked
            n_asked += 1
            return n_asked > n_answers

        n_samples = sum(map(len, decode_blocks(io.BytesIO(a_minute(name)), stop=stop)))
        assert n_samples < 60 * SAMPLE_RATE
        assert n_answers < n_asked < n_answers + 20, "it was left at once"


def test_a_junk_file_that_was_stopped_is_not_called_corrupt() -> None:
    assert not list(decode_blocks(io.BytesIO(b"OggS" + bytes(5000)), stop=lambda: True))
    with pytest.raises(CorruptAudio):
        list(decode_blocks(io.BytesIO(b"OggS" + bytes(5000))))
