"""Fewer inputs for a block of many numbers: the same projection at every site, agreed once.

`random` is drawn from the study's seed (Johnson & Lindenstrauss 1984) and knows no patient.
`pca` and `select` come from sums over all sites' training patients, sent once before round 1. With
privacy each patient's row is first scaled to length 1, so that one patient more changes the sums by
at most 1 in L2, and the site adds Gaussian noise (for `pca`: Dwork et al. 2014, Analyze Gauss).
"""

from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cohortium.common.document import Document
from cohortium.common.errors import ProtocolError
from cohortium.common.reduction import Reduction

SHARE: Final = 0.5  # of a patient's length, squared, that goes to the class counts of `select`

Floats = NDArray[np.float32]
Wide = NDArray[np.float64]


class Projection(Document):
    """What sites do with a block of p numbers: values (n, p) become (n, components).

    columns: places that are kept, of `select`. rows: of `pca`, orthonormal, each of p numbers.
    """

    columns: tuple[Annotated[int, Field(ge=0)], ...] = ()
    rows: tuple[tuple[float, ...], ...] = ()


def sums(
    values: Wide, places: NDArray[np.int64], classes: int, reduction: Reduction, *, bound: bool
) -> Wide:
    """What one site adds: a vector whose length `width` tells.

    Args:
        values: (n, p), scaled, of training patients; a patient who lacks the block is all zeros.
        places: (n,) each patient's class, from 0.
        bound: scale each patient's part to length 1 at most, for noise to cover it.
    """
    if bound:
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        values = np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)
    if reduction.method == "pca":
        upper = np.triu_indices(values.shape[1])
        scale = np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))  # its length is the matrix's
        return np.asarray((values.T @ values)[upper] * scale)
    counts = np.bincount(places, minlength=classes).astype(np.float64)
    totals = np.zeros((classes, values.shape[1]))
    np.add.at(totals, places, values)
    share = SHARE if bound else 1.0
    return np.concatenate([counts * np.sqrt(share), totals.ravel() * np.sqrt(share)])


def width(columns: int, classes: int, reduction: Reduction) -> int:
    """How many numbers a site sends for a block of so many columns."""
    if reduction.method == "pca":
        return columns * (columns + 1) // 2
    return classes * (1 + columns)


def project(total: Wide, columns: int, classes: int, reduction: Reduction) -> Projection:
    """From the sum over sites to what all of them apply.

    `pca`: the directions of the largest second moments about the public centre. `select`: the
    columns whose class means differ most, by the weighted variance between classes.

    Raises:
        ProtocolError: `total` has another length than `width` tells.
    """
    if total.shape != (width(columns, classes, reduction),):
        raise ProtocolError("the sums for preprocessing.reduce have another length than the study")
    if reduction.method == "pca":
        upper = np.triu_indices(columns)
        moments = np.zeros((columns, columns))
        moments[upper] = total / np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))
        _, vectors = np.linalg.eigh(np.triu(moments) + np.triu(moments, 1).T)
        rows = vectors.T[::-1][: reduction.components]
        signs = np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)])
        return Projection(rows=tuple(tuple(row) for row in (rows * signs[:, None]).tolist()))
    counts = np.maximum(total[:classes], 1.0)
    means = total[classes:].reshape(classes, columns) / counts[:, None]
    middle = counts @ means / counts.sum()
    spread = counts @ (means - middle) ** 2
    best = np.argsort(-spread, kind="stable")[: reduction.components]
    return Projection(columns=tuple(sorted(best.tolist())))


def reduce(
    values: Floats | Wide, reduction: Reduction, found: Projection | None, seed: int
) -> Wide:
    """(n, components) from scaled values (n, p); `found` is None for `random` alone.

    What is projected is scaled so that a number stays about as large as it was.

    Raises:
        ProtocolError: the projection is missing, or of another block.
    """
    columns = values.shape[1]
    if reduction.method == "random":
        rng = np.random.default_rng((seed, columns, reduction.components))
        rows = rng.standard_normal((reduction.components, columns)) / np.sqrt(columns)
        return np.asarray(values @ rows.T)
    if found is None:
        raise ProtocolError(
            "preprocessing.reduce: the sites' projection did not come with the model"
        )
    if reduction.method == "select":
        if len(found.columns) != reduction.components or max(found.columns) >= columns:
            raise ProtocolError("preprocessing.reduce: the projection is of another block")
        return np.asarray(values[:, list(found.columns)], np.float64)
    rows = np.array(found.rows)
    if rows.shape != (reduction.components, columns):
        raise ProtocolError("preprocessing.reduce: the projection is of another block")
    return np.asarray(values @ rows.T * np.sqrt(reduction.components / columns))
