"""Which rows are in which batch, derived from the round's number alone: no state between rounds.

Each pass over the rows is shuffled anew, its last batch is short where it has to be, and a round
goes on where the one before stopped. A round asked for twice gets the same batches.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cohortium.common.errors import DataError

Batch = NDArray[np.int64]


def own_stream(
    rows: int, batch_size: int, local_steps: int, round_number: int, seed: int, position: int
) -> list[Batch]:
    """The batches of a round, counted from 1, at the site that is at `position` in the study.

    Returns:
        `local_steps` arrays of row indices below `rows`.

    Raises:
        DataError: no rows.
    """

    def order(number: int) -> Batch:
        return np.random.default_rng((seed, position, number)).permutation(rows)

    return _window(rows, batch_size, local_steps, round_number, order)


def shared_stream(
    site_rows: Sequence[int],
    batch_size: int,
    local_steps: int,
    round_number: int,
    seed: int,
    position: int,
) -> list[Batch]:
    """As `own_stream`, but the batches of a published simulation in one process.

    There all sites share torch's global generator: `DataLoader(shuffle=True)` iterators are made,
    the generator is seeded again, then sites take `local_steps` batches each in turn, round after
    round. A first pass draws the sampler's seed; a later one draws the iterator's base seed before.

    Args:
        site_rows: training rows of every site, in the simulation's order.
        position: of this site in `site_rows`.
    """
    seeds = _sampler_seeds(site_rows, batch_size, local_steps, round_number, seed)[position]
    rows = site_rows[position]

    def order(number: int) -> Batch:
        sampler = torch.Generator().manual_seed(seeds[number])
        return torch.randperm(rows, generator=sampler).numpy()

    return _window(rows, batch_size, local_steps, round_number, order)


def _window(
    rows: int,
    batch_size: int,
    local_steps: int,
    round_number: int,
    order: Callable[[int], Batch],
) -> list[Batch]:
    """A round's part of the endless sequence of passes; `order(i)` shuffles pass i."""
    per_pass = _batches_per_pass(rows, batch_size)
    first = (round_number - 1) * local_steps
    passes = range(first // per_pass, _passes(first + local_steps, per_pass))
    orders = {number: order(number) for number in passes}
    return [
        orders[step // per_pass][step % per_pass * batch_size :][:batch_size]
        for step in range(first, first + local_steps)
    ]


def _sampler_seeds(
    site_rows: Sequence[int], batch_size: int, local_steps: int, rounds: int, seed: int
) -> list[list[int]]:
    """The sampler's seed of every pass begun by the end of round `rounds`, by site."""
    stream = torch.Generator().manual_seed(seed)
    seeds: list[list[int]] = [[] for _ in site_rows]
    for number in range(1, rounds + 1):
        for rows, drawn in zip(site_rows, seeds, strict=True):
            per_pass = _batches_per_pass(rows, batch_size)
            for begun in range(len(drawn), _passes(number * local_steps, per_pass)):
                if begun:
                    _draw(stream)
                drawn.append(_draw(stream))
    return seeds


def _draw(stream: torch.Generator) -> int:
    """One seed as torch's loaders draw it."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=stream).item())


def _passes(batches: int, per_pass: int) -> int:
    return -(-batches // per_pass)


def _batches_per_pass(rows: int, batch_size: int) -> int:
    if rows < 1:
        raise DataError(
            "training: no row is left to train on after the study's exclusions; check the "
            "site's table against the study's schema"
        )
    return -(-rows // batch_size)
