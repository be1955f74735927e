"""A weighted mean of sites' vectors that forgets each one as soon as it is added."""

import math

import numpy as np
from numpy.typing import NDArray

from cohortium.common.errors import ProtocolError

BLOCK = 1 << 16  # elements worked on at a time: the temporaries stay in the processor's cache

Wide = NDArray[np.float64]


class Fold:
    """sum(weight * vector) / sum(weight), the same bits in whatever order replies arrive.

    Each coordinate is kept as a float64 sum and the float64 rounding error of that sum (TwoSum:
    Knuth, TAOCP 2, 4.2.2, theorem B), together 106 bits. With whole weights below 2**24 a product
    with a float32 is exact, so the sum is exact too, and hence free of order, as long as the
    values of one coordinate lie within a factor of about 2**50 of each other; beyond that, order
    could show only where the sum falls within 2**-100 of a float32 rounding boundary.

    Memory: 16 bytes per parameter however many sites there are, and nothing waits for its turn.
    """

    def __init__(self, parameters: int) -> None:
        self._sum = np.zeros(parameters)
        self._error = np.zeros(parameters)
        self.weight_total = 0.0
        self.replies = 0

    def add(self, vector: NDArray[np.float32], weight: float) -> None:
        """Add one site's float32 (d,) vector, and nothing of it if anything is wrong with it.

        Raises:
            ProtocolError: another type or shape, a value that is not finite, or a weight that is
                not positive.
        """
        self._check(vector, weight)
        for start in range(0, len(vector), BLOCK):
            part = slice(start, start + BLOCK)
            _add_exactly(self._sum[part], self._error[part], vector[part] * np.float64(weight))
        self.weight_total += weight
        self.replies += 1

    def mean(self) -> NDArray[np.float32]:
        """The weighted mean so far, float32 (d,).

        Raises:
            ProtocolError: nobody has replied.
        """
        if not self.replies:
            raise ProtocolError("there is nothing to average: no site replied")
        return ((self._sum + self._error) / self.weight_total).astype(np.float32)

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


def _add_exactly(total: Wide, error: Wide, value: Wide) -> None:
    """total, error += value in place, with nothing lost to rounding of `total`."""
    before = total.copy()
    total += value
    from_value = total - before
    from_before = total - from_value
    error += (before - from_before) + (value - from_value)
