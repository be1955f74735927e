"""Batches follow from the round's number, and replay a published single-process simulation."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from cohortium.client.training.batch_order import own_stream, shared_stream
from cohortium.common.errors import DataError


def simulate(
    site_rows: list[int], batch_size: int, local_steps: int, rounds: int, seed: int
) -> list[list[list[list[int]]]]:
    """Row indices by round, site and step, drawn by torch's own loaders in one process."""
    data = [TensorDataset(torch.arange(rows)) for rows in site_rows]
    with torch.random.fork_rng():
        loaders = [DataLoader(rows, batch_size=batch_size, shuffle=True) for rows in data]
        iterators = [iter(loader) for loader in loaders]
        torch.manual_seed(seed)
        rounds_taken = []
        for _ in range(rounds):
            sites = []
            for site, loader in enumerate(loaders):
                taken = []
                for _ in range(local_steps):
                    batch = next(iterators[site], None)
                    if batch is None:
                        iterators[site] = iter(loader)
                        batch = next(iterators[site])
                    taken.append(batch[0].tolist())
                sites.append(taken)
            rounds_taken.append(sites)
        return rounds_taken


@pytest.mark.parametrize(
    ("site_rows", "batch_size", "local_steps", "seed"),
    [
        ([199, 172, 30, 85], 4, 100, 42),
        ([3, 9, 8], 4, 5, 1),  # smaller than a batch; a short last batch; whole batches
        ([1], 1, 3, 7),
        ([7, 5], 7, 1, 0),
    ],
)
def test_a_site_alone_draws_what_it_would_in_the_simulation(
    site_rows: list[int], batch_size: int, local_steps: int, seed: int
) -> None:
    expected = simulate(site_rows, batch_size, local_steps, 4, seed)
    for number in (3, 1, 4, 2):  # in any order: nothing is kept between rounds
        for site in range(len(site_rows)):
            batches = shared_stream(site_rows, batch_size, local_steps, number, seed, site)
            assert [batch.tolist() for batch in batches] == expected[number - 1][site]


def test_every_pass_takes_each_row_once_across_rounds() -> None:
    rounds = [own_stream(10, 4, 4, number, seed=3, position=1) for number in (1, 2, 3)]
    batches = [batch for batches in rounds for batch in batches]
    assert [len(batch) for batch in batches] == [4, 4, 2] * 4
    for start in range(0, 12, 3):
        assert sorted(np.concatenate(batches[start : start + 3])) == list(range(10))


def test_a_repeated_round_gets_the_same_batches_and_another_site_others() -> None:
    def take(number: int, position: int) -> list[list[int]]:
        return [batch.tolist() for batch in own_stream(50, 8, 5, number, 3, position)]

    assert take(2, 0) == take(2, 0)
    assert take(2, 0) != take(2, 1)
    assert take(2, 0) != take(1, 0)


def test_drawing_batches_leaves_the_callers_random_state_alone() -> None:
    before = torch.get_rng_state()
    shared_stream([5, 6], 2, 9, 3, seed=1, position=1)
    own_stream(5, 2, 9, 3, seed=1, position=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_site_without_rows_is_told_so() -> None:
    with pytest.raises(DataError, match="no row is left"):
        own_stream(0, 4, 5, 1, seed=0, position=0)
