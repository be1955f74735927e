"""What a site sends for Newton's method: a gradient, and the upper half of an information matrix.

Both are sums over the site's patients of derivatives of their loss, so that those of all sites add
up to what one table with every row would give. They are exact: a study that asks for them has no
privacy, and its review sheet says so.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cohortium.common.study import Study

MOST_INPUTS = 1000  # whose information matrix is half a million numbers

Floats = NDArray[np.float64]


def asked(study: "Study") -> bool:
    """Whether sites send these instead of a change of the model."""
    return study.strategy.name == "newton"


def update_length(study: "Study", parameters: int) -> int:
    """How many numbers an update of a model with so many parameters has."""
    return parameters + triangle(parameters) if asked(study) else parameters


def triangle(parameters: int) -> int:
    """How many numbers the upper half of a symmetric matrix has, its diagonal included."""
    return parameters * (parameters + 1) // 2


def join(gradient: Floats, information: Floats) -> NDArray[np.float32]:
    """(d + d (d + 1) / 2,) from a gradient (d,) and a symmetric matrix (d, d)."""
    upper = np.triu_indices(len(gradient))
    return np.concatenate([gradient, information[upper]]).astype(np.float32)


def split(vector: NDArray[np.float32], parameters: int) -> tuple[Floats, Floats]:
    """The inverse of `join`, in float64."""
    values = vector.astype(np.float64)
    information = np.zeros((parameters, parameters))
    information[np.triu_indices(parameters)] = values[parameters:]
    diagonal = np.diag(information)
    return values[:parameters], information + information.T - np.diag(diagonal)
