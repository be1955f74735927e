"""The worst of several groups, and the largest of several gaps, are mostly luck: how much of it."""

import numpy as np
import pytest

from cohortium.common.fairness.counts import Share
from cohortium.common.fairness.extremes import ranges
from cohortium.common.fairness.shrinkage import shrunken


def test_groups_that_differ_by_chance_alone_are_pulled_to_one_share() -> None:
    assert shrunken([16, 15, 17], [20, 20, 20]).tolist() == [0.8, 0.8, 0.8]


def test_groups_that_differ_keep_nearly_their_own_shares_if_they_are_large() -> None:
    large = shrunken([900, 600], [1000, 1000])
    assert large == pytest.approx([0.9, 0.6], abs=0.01)
    small = shrunken([900, 600, 3], [1000, 1000, 10])
    assert small[:2] == pytest.approx([0.9, 0.6], abs=0.01)
    assert 0.32 < small[2] < 0.6  # of 0.3 seen in ten patients


def test_shares_of_nobody_and_everybody_need_no_pull() -> None:
    assert shrunken([0, 0], [5, 9]).tolist() == [0.0, 0.0]
    assert shrunken([5, 9], [5, 9]).tolist() == [1.0, 1.0]
    assert shrunken([1, 0], [1, 1]).tolist() == [0.5, 0.5]


def test_partial_pooling_finds_the_spread_that_the_groups_were_drawn_with() -> None:
    """Beta(8, 2): mean 0.8, worth 10 patients; oracle: the posterior mean with those known."""
    rng = np.random.default_rng(20140710)
    n = rng.integers(10, 200, 400)
    k = rng.binomial(n, rng.beta(8, 2, 400))
    assert shrunken(k.tolist(), n.tolist()) == pytest.approx((k + 8) / (n + 10), abs=0.03)


def test_noise_makes_the_largest_gap_less_sure() -> None:
    plain = [Share(80, 100), Share(60, 100), Share(70, 100)]
    noisy = [Share(one.part, one.whole, 25.0, 25.0) for one in plain]
    (_, narrow), (_, wide) = (
        ranges(tuple(counts), 1.0, np.random.default_rng(1)) for counts in (plain, noisy)
    )
    assert wide[1] > narrow[1]


def test_the_worst_false_positive_rate_is_the_highest() -> None:
    counts = (Share(10, 100), Share(40, 100))
    (low, high), _ = ranges(counts, -1.0, np.random.default_rng(1))
    assert low < 0.4 < high
    assert low > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wholes", "shares"),
    [
        ((50, 50), (0.8, 0.8)),
        ((50,) * 6, (0.8,) * 6),
        ((200,) * 4, (0.8, 0.8, 0.8, 0.6)),
        ((200, 20, 200, 20), (0.8, 0.8, 0.7, 0.6)),
        ((200,) * 6, (0.8, 0.78, 0.76, 0.74, 0.72, 0.7)),
        ((400, 10, 10, 10), (0.9,) * 4),
        ((400, 10, 10, 10), (0.1,) * 4),
        ((100, 100), (0.8, 0.7)),
    ],
)
def test_the_largest_gap_and_the_worst_group_are_what_luck_made_them(
    wholes: tuple[int, ...], shares: tuple[float, ...]
) -> None:
    """Intervals hold the truth, and pulled gaps are nearer to it than those seen, without a gap."""
    rng = np.random.default_rng(20140710)
    truth, worst = max(shares) - min(shares), min(shares)
    held, held_worst, seen, pulled = [], [], [], []
    for _ in range(400):
        parts = rng.binomial(wholes, shares)
        counts = tuple(Share(int(k), n) for k, n in zip(parts, wholes, strict=True))
        lowest, gap = ranges(counts, 1.0, rng)
        held.append(gap[0] <= truth + 1e-9 and truth - 1e-9 <= gap[1])
        held_worst.append(lowest[0] <= worst <= lowest[1])
        seen.append(np.ptp(parts / np.array(wholes)))
        pulled.append(np.ptp(shrunken(parts.tolist(), wholes)))
    assert np.mean(held) >= 0.93
    assert np.mean(held_worst) >= 0.93
    if truth == 0:
        assert np.mean(pulled) < np.mean(seen) / 2
