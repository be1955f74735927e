"""Bins of the score put together over sites, as coarse as the coarsest, and their error by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortium.common.metrics.intervals import wilson
from cohortium.common.metrics.reliability import expected_error, flattened, merged, reliability
from cohortium.common.metrics.tallies import Bins

FOUR = Bins(n=(10, 20, 0, 40), positives=(1, 8, 0, 30), mean_score=(0.1, 0.4, None, 0.8))
TWO = Bins(n=(30, 50), positives=(5, 40), mean_score=(0.2, 0.75))


def test_two_sites_of_other_bins_by_hand() -> None:
    low, high = reliability([FOUR, None, TWO])
    assert (low.low, low.high, high.high) == (0.0, 0.5, 1.0)
    assert low.n == 60
    assert low.observed == pytest.approx(14 / 60)
    assert low.mean_score == pytest.approx((1 + 8 + 6) / 60)
    assert high.n == 90
    assert high.mean_score == pytest.approx((32 + 37.5) / 90)
    assert (low.observed_low, low.observed_high) == pytest.approx(wilson(14, 60))


def test_an_empty_bin_is_unknown_not_zero() -> None:
    empty = reliability([FOUR])[2]
    assert (empty.n, empty.mean_score, empty.observed, empty.observed_low) == (0, None, None, None)
    assert reliability([None]) == ()


def test_without_chance_the_calibration_error_is_the_mean_distance() -> None:
    """Shares of 0 and 1 have no error of their own to take off: (10 * 0.1 + 30 * 0.2) / 40."""
    certain = Bins(n=(10, 30), positives=(0, 30), mean_score=(0.1, 0.8))
    assert expected_error(flattened(certain) or ()) == pytest.approx((7 / 40, 40))


def test_chance_alone_is_taken_off_and_never_below_zero() -> None:
    """|0.5 - 0.6| with a standard error of 0.16 is what chance gives."""
    found = expected_error((10.0, 6.0, 5.0))
    assert found is not None
    assert 0 <= found[0] < 0.08
    assert expected_error((10.0, 5.0, 5.0)) == (0.0, 10.0)


@given(
    st.lists(
        st.tuples(st.floats(0, 0.999), st.booleans(), st.integers(0, 2)), min_size=1, max_size=50
    ),
    st.permutations(range(3)),
    st.lists(st.sampled_from([2, 4, 8]), min_size=3, max_size=3),
)
def test_merging_in_any_order_gives_the_bins_of_the_pooled_rows(
    rows: list[tuple[float, bool, int]], order: list[int], finest: list[int]
) -> None:
    shown = [_bins([row for row in rows if row[2] == k], finest[k]) for k in order]
    found = merged([flat for one in shown if (flat := flattened(one))])
    pooled = flattened(_bins(rows, min(finest)))
    assert found == pytest.approx(pooled, abs=1e-9)


def _bins(rows: list[tuple[float, bool, int]], count: int) -> Bins:
    place = np.array([int(score * count) for score, _, _ in rows], int)
    scores = np.array([score for score, _, _ in rows], float)
    ill = np.array([positive for _, positive, _ in rows], float)
    n = np.bincount(place, minlength=count)
    sums = np.bincount(place, scores, minlength=count)
    return Bins(
        n=tuple(n.tolist()),
        positives=tuple(np.bincount(place, ill, minlength=count).astype(int).tolist()),
        mean_score=tuple(float(s / m) if m else None for s, m in zip(sums, n, strict=True)),
    )
