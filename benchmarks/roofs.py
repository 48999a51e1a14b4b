"""What a machine can do at most, measured: bytes moved and products computed in a second, with the threads in use."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import torch

from benchmarks.work import Work

MEMORY_BYTES: Final = 1 << 30  # more than any cache holds
_SIDES: Final = (512, 1024, 2048)  # of square matrices; on a GPU four times as long
_REPEATS: Final = 7


class Roofs:
    """The limits of one device; each is measured when it is first asked for.

    Args:
        device: `cpu` or `cuda`.
        memory_bytes: what counts as more than any cache holds.
    """

    def __init__(self, device: str, memory_bytes: int = MEMORY_BYTES) -> None:
        self._device = device
        self._memory_bytes = memory_bytes
        self._bandwidth: dict[int, float] = {}
        self._rate: dict[torch.dtype, float] = {}

    def bandwidth(self, n_bytes: int | None = None) -> float:
        """Bytes a second that a copy reads and writes, or a sum reads: whichever moves more.

        Args:
            n_bytes: that one pass touches; what fits a cache moves faster.  More than any cache holds when absent.
        """
        size = min(n_bytes or self._memory_bytes, self._memory_bytes)
        octave = 1 << max(16, (size - 1).bit_length())  # steps of similar size share a measurement
        if octave not in self._bandwidth:
            source = torch.ones(octave // 8, device=self._device)
            target, whole = torch.empty_like(source), torch.ones(octave // 4, device=self._device)
            copy_s = self._least_s(lambda: target.copy_(source))
            read_s = self._least_s(whole.sum)
            self._bandwidth[octave] = octave / min(copy_s, read_s)
        return self._bandwidth[octave]

    def rate(self, dtype: torch.dtype) -> float:
        """Operations a second of square matrix products, the best of several sizes; a multiply-add is two."""
        if dtype not in self._rate:
            rates = []
            for side in _SIDES if self._device == "cpu" else [4 * side for side in _SIDES]:
                left, right = (torch.randn(side, side, device=self._device).to(dtype) for _ in range(2))
                rates.append(2 * side**3 / self._least_s(lambda a=left, b=right: a @ b))  # type: ignore[misc]
            self._rate[dtype] = max(rates)
        return self._rate[dtype]

    def bound(self, work: Work, dtype: torch.dtype) -> tuple[float, str]:
        """The least time that work can take, in seconds, and which of `bytes` and `operations` decides it."""
        moving_s = work.n_bytes / self.bandwidth(work.n_bytes)
        computing_s = work.operations / self.rate(dtype)
        return max((moving_s, "bytes"), (computing_s, "operations"))

    def _least_s(self, run: Callable[[], object]) -> float:
        """The shortest of several times: whatever else the machine does can only add to it."""
        took_s = [seconds(run, self._device) for _ in range(_REPEATS + 1)]
        return min(took_s[1:])


def seconds(run: Callable[[], object], device: str) -> float:
    """How long something takes until the device has done it, in seconds."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
