"""A weighted mean of sites' vectors that forgets each one as soon as it is added."""

import math
import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cohortium.common.errors import ProtocolError

BLOCK = 1 << 14  # elements worked on at a time: the temporaries stay in the processor's cache
ON_DISK_BYTES = 64 * 2**20  # an array of this size or above lies in a file

Wide = NDArray[np.float64]


class Fold:
    """sum(weight * vector) / sum(weight), the same bits in whatever order replies arrive.

    Each coordinate is kept as a float64 sum and the float64 rounding error of that sum (TwoSum:
    Knuth, TAOCP 2, 4.2.2, theorem B), together 106 bits. With whole weights below 2**24 a product
    with a float32 is exact, so the sum is exact too, and hence free of order, as long as the
    values of one coordinate lie within a factor of about 2**50 of each other; beyond that, order
    could show only where the sum falls within 2**-100 of a float32 rounding boundary.

    Memory: 16 bytes per parameter however many sites there are, and nothing waits for its turn.
    For a large model they lie in a file without a name, of which only a block is in memory.

    Args:
        parameters: d.
        scratch: the directory for such files; without one everything stays in memory.
    """

    def __init__(self, parameters: int, scratch: Path | None = None) -> None:
        self._sum = _zeros(parameters, scratch)
        self._error = _zeros(parameters, scratch)
        self.weight_total = 0.0
        self.replies = 0

    def add(self, vector: NDArray[np.float32], weight: float) -> None:
        """Add one site's float32 (d,) vector, and nothing of it if anything is wrong with it.

        Raises:
            ProtocolError: another type or shape, a value that is not finite, or a weight that is
                not positive.
        """
        self._check(vector, weight)
        scratch = np.empty((3, min(BLOCK, len(vector))))
        for part in _blocks(len(vector)):
            _add_exactly(self._sum[part], self._error[part], vector[part], weight, scratch)
            self._let_go(part)
        self.weight_total += weight
        self.replies += 1

    def mean(self) -> NDArray[np.float32]:
        """The weighted mean so far, float32 (d,).

        Raises:
            ProtocolError: nobody has replied.
        """
        if not self.replies:
            raise ProtocolError("there is nothing to average: no site replied")
        mean = np.empty(len(self._sum), np.float32)
        for part in _blocks(len(mean)):
            mean[part] = (self._sum[part] + self._error[part]) / self.weight_total
            self._let_go(part)
        return mean

    def _let_go(self, part: slice) -> None:
        """The system keeps the pages of a file as long as it likes; we no longer need them."""
        for array in (self._sum, self._error):
            if isinstance(array, np.memmap):
                pages: mmap.mmap = array._mmap  # type: ignore[attr-defined]
                length = min(8 * BLOCK, len(pages) - 8 * part.start)
                pages.madvise(mmap.MADV_DONTNEED, 8 * part.start, length)

    def _check(self, vector: NDArray[np.float32], weight: float) -> None:
        if vector.dtype != np.float32 or vector.shape != self._sum.shape:
            raise ProtocolError(
                f"an update is {vector.dtype} {vector.shape}, the model float32 {self._sum.shape}: "
                "the site runs another model; compare the versions installed"
            )
        if not np.isfinite(vector).all():
            raise ProtocolError("an update holds a value that is not finite: training diverged")
        if not (math.isfinite(weight) and weight > 0):
            raise ProtocolError("an update's weight must be a positive number")


def _zeros(length: int, scratch: Path | None) -> Wide:
    if scratch is None or 8 * length < ON_DISK_BYTES:
        return np.zeros(length)
    with tempfile.TemporaryFile(dir=scratch) as file:
        file.truncate(8 * length)
        return np.memmap(file, np.float64, "r+", shape=(length,))


def _blocks(length: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, length, BLOCK))


def _add_exactly(
    total: Wide, error: Wide, vector: NDArray[np.float32], weight: float, scratch: Wide
) -> None:
    """total, error += weight * vector in place, with nothing lost to rounding of `total`."""
    value, after, share = scratch[:, : len(total)]
    np.multiply(vector, np.float64(weight), out=value)
    np.add(total, value, out=after)
    np.subtract(after, total, out=share)  # what of `value` arrived in the sum
    np.subtract(value, share, out=value)  # what did not
    np.subtract(after, share, out=share)  # what of `total` stayed in the sum
    np.subtract(total, share, out=share)  # what did not
    error += share
    error += value
    total[:] = after
