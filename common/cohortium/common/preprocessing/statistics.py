"""Sums that sites send so that all can standardise with one mean and deviation. Not private."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cohortium.common.document import GrownDocument
from cohortium.common.errors import ProtocolError
from cohortium.common.preprocessing.reducing import Projection


class Statistics(GrownDocument):
    """Count, sum and sum of squares per input (f of them); `+` merges sites in any order.

    projection: what all sites do with the block that the study reduces; the sums are then empty.

    The sums are float64 of values in the schema's units, so a deviation below about 1e-7 of the
    mean is lost to rounding: far below what a clinical measurement resolves.
    """

    later: ClassVar[frozenset[str]] = frozenset({"projection"})

    count: Annotated[int, Field(ge=0)]
    total: tuple[float, ...]
    squares: tuple[float, ...]
    projection: Projection | None = None

    @model_validator(mode="after")
    def _same_width(self) -> Self:
        if len(self.total) != len(self.squares):
            raise ValueError("total and squares differ in length")
        return self

    @classmethod
    def from_encoded(cls, inputs: NDArray[np.float64]) -> "Statistics":
        """Sum up unscaled inputs (n, f)."""
        return cls(
            count=len(inputs),
            total=tuple(inputs.sum(axis=0).tolist()),
            squares=tuple((inputs**2).sum(axis=0).tolist()),
        )

    def __add__(self, other: "Statistics") -> "Statistics":
        """Merge two sites.

        Raises:
            ProtocolError: the sites encoded different numbers of inputs.
        """
        if len(self.total) != len(other.total):
            raise ProtocolError(
                f"statistics of {len(self.total)} and {len(other.total)} inputs cannot be merged: "
                "the sites encode different columns"
            )
        return Statistics(
            count=self.count + other.count,
            total=_add(self.total, other.total),
            squares=_add(self.squares, other.squares),
        )

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean per input (f,); needs one row."""
        return np.array(self.total) / self.count

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Standard deviation per input (f,), ddof = 1; needs two rows."""
        centred = np.array(self.squares) - self.count * self.mean**2
        return np.sqrt(np.maximum(centred, 0.0) / (self.count - 1))


def _add(first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))
