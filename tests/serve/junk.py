"""Files that nearly are recordings: real ones of every container, damaged in the ways that files are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from compress.audio import Samples
from tests.compress.containers import CODECS, encode

_RATE: Final = 48_000  # which all codecs take
_MAGIC: Final = (
    b"RIFF\0\0\0\0WAVE",
    b"fLaC",
    b"OggS",
    b"ID3\4\0\0",
    b"\x1aE\xdf\xa3",
    b"\0\0\0\x20ftypM4A ",
    b"\xff\xfb",
)
_LIES: Final = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\1\0\0\0")

Mutation = Callable[[random.Random, bytes], bytes]


def recordings(speech: Samples) -> dict[str, bytes]:
    """Speech, shape (n,), at 16 kHz, in every container, in stereo at 48 kHz."""
    stereo = np.repeat(speech, _RATE // 16_000)[None].repeat(2, 0).astype(np.float64)
    return {name: encode(stereo, _RATE, name) for name in CODECS}


def mutations(originals: dict[str, bytes], n: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`n` damaged files, each with a name that says what was done to what; the same for the same seed."""
    draw = random.Random(seed)
    kinds = [(container, mutation) for mutation in MUTATIONS for container in originals]
    for i in range(n):
        container, mutation = kinds[i % len(kinds)]
        name = f"{i}: {getattr(mutation, '__name__', '?').strip('_')} of {container}"
        yield name, mutation(draw, originals[container])


def _truncated(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data))]


def _truncated_in_the_head(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(min(len(data), 300))]


def _beheaded(draw: random.Random, data: bytes) -> bytes:
    return data[draw.randrange(min(len(data), 3000)) :]


def _flipped_bits(draw: random.Random, data: bytes) -> bytes:
    return _overwritten(
        data, {draw.randrange(len(data)): draw.randrange(256) for _ in range(draw.choice((1, 10, 300)))}
    )


def _flipped_bits_in_the_head(draw: random.Random, data: bytes) -> bytes:
    return _overwritten(data, {draw.randrange(12, 400): draw.randrange(256) for _ in range(draw.choice((1, 5, 30)))})


def _lying_head(draw: random.Random, data: bytes) -> bytes:
    """Sizes, rates and counts of the head, which are mostly four bytes long, say too much or nothing."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 3))):
        at = draw.randrange(4, 200)
        changed[at : at + 4] = draw.choice(_LIES)
    return bytes(changed)


def _under_another_name(draw: random.Random, data: bytes) -> bytes:
    magic = draw.choice(_MAGIC)
    return magic + data[len(magic) :]


def _behind_another_head(draw: random.Random, data: bytes) -> bytes:
    return draw.choice(_MAGIC) + bytes(draw.randrange(64)) + data


def _with_a_hole(draw: random.Random, data: bytes) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + bytes(draw.randrange(5000)) + data[start + draw.randrange(5000) :]


def _shuffled(draw: random.Random, data: bytes) -> bytes:
    size = draw.choice((64, 512, 4096))
    head, *blocks = [data[i : i + size] for i in range(0, len(data), size)]
    draw.shuffle(blocks)
    return b"".join([head, *blocks])


def _repeated(draw: random.Random, data: bytes) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start : start + 2000] * draw.randrange(2, 50) + data[start:]


def _noise_behind_the_magic(draw: random.Random, data: bytes) -> bytes:
    return data[:12] + draw.randbytes(draw.randrange(1, 20_000))


def _overwritten(data: bytes, values: dict[int, int]) -> bytes:
    changed = bytearray(data)
    for at, value in values.items():
        changed[at] = value
    return bytes(changed)


MUTATIONS: Final[tuple[Mutation, ...]] = (
    _truncated,
    _truncated_in_the_head,
    _beheaded,
    _flipped_bits,
    _flipped_bits_in_the_head,
    _lying_head,
    _under_another_name,
    _behind_another_head,
    _with_a_hole,
    _shuffled,
    _repeated,
    _noise_behind_the_magic,
)
