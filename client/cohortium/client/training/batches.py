"""The batches of a round of ordinary training, as the study asks for them."""

import numpy as np
from numpy.typing import NDArray

from cohortium.client.training.batch_order import Batch, own_stream, shared_stream
from cohortium.common.study import Study

DRAWN = 2**21  # sets these coins apart from those that order batches


def batches_of(
    study: Study, labels: NDArray[np.float32], round_number: int, site: str
) -> list[Batch]:
    """`local_steps` arrays of indices into the site's training patients, labels (n, ...)."""
    training, position = study.training, study.sites.names.index(site)
    assert training.batch_size is not None
    shape = (training.batch_size, training.local_steps, round_number, training.seed, position)
    if training.shared_stream_rows:
        return shared_stream(training.shared_stream_rows, *shape)
    if training.sampling == "none":
        return own_stream(len(labels), *shape)
    coins = np.random.default_rng((training.seed, position, round_number, DRAWN))
    chosen = balanced(labels, coins, over=training.sampling == "over")
    return [chosen[batch] for batch in own_stream(len(chosen), *shape)]


def balanced(
    labels: NDArray[np.float32], coins: np.random.Generator, *, over: bool
) -> NDArray[np.int64]:
    """Indices with equally many of each class that there is.

    Args:
        labels: (n,) class indices.
        over: whether every patient is in it, those of rarer classes several times; else as many
            of each class as the rarest has, drawn anew.
    """
    classes = [np.flatnonzero(labels == one) for one in np.unique(labels)]
    counts = [len(rows) for rows in classes]
    wanted = max(counts) if over else min(counts)
    return np.concatenate([_drawn(rows, wanted, coins) for rows in classes])


def _drawn(rows: NDArray[np.int64], wanted: int, coins: np.random.Generator) -> NDArray[np.int64]:
    """All of them as often as they go into it, and the rest without anyone twice."""
    whole, rest = divmod(wanted, len(rows))
    return np.concatenate([*[rows] * whole, coins.permutation(rows)[:rest]])
