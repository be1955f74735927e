"""Scores in 256 fixed bins: merged exactly, and close to the exact areas in every regime."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from cohortium.common.metrics import auroc as exact
from cohortium.common.metrics.histogram import (
    BINS,
    Histogram,
    auprc,
    auroc,
    auroc_variance,
    merge,
)

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

REGIMES = {  # patients, prevalence, distance of the classes, centre and spread of the logits
    "100 patients": (100, 0.3, 1.5, 0.0, 1.0),
    "30 positives": (300, 0.1, 1.5, 0.0, 1.0),
    "moderate": (2000, 0.3, 1.5, 0.0, 1.0),
    "weak model": (2000, 0.3, 0.3, 0.0, 1.0),
    "sharp": (2000, 0.3, 4.0, 0.0, 2.0),
    "rare": (20_000, 0.005, 1.5, -6.0, 1.0),
    "rare, 30 positives": (3000, 0.01, 1.0, -5.0, 1.0),
}
LIMITS = {"100 patients": 0.006}


def ward(rng: np.random.Generator, regime: str) -> tuple[Floats, Flags]:
    n, prevalence, apart, centre, spread = REGIMES[regime]
    ill = rng.random(n) < prevalence
    ill[:2] = True
    logits = centre + spread * (rng.normal(size=n) + apart * ill)
    return 1 / (1 + np.exp(-logits)), ill


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 3)), max_size=60),
    st.permutations(range(4)),
)
def test_how_rows_are_spread_over_sites_and_in_which_order_changes_no_bin(
    rows: list[tuple[float, bool, int]], order: list[int]
) -> None:
    scores = np.array([score for score, _, _ in rows], float)
    ill = np.array([positive for _, positive, _ in rows], bool)
    site = np.array([owner for _, _, owner in rows], int)
    merged = merge(Histogram.of(scores[site == k], ill[site == k]) for k in order)
    whole = Histogram.of(scores, ill)
    assert (merged.positives == whole.positives).all()
    assert (merged.negatives == whole.negatives).all()
    assert whole.positives.sum() + whole.negatives.sum() == len(rows)


def test_certain_scores_fall_into_the_outer_bins() -> None:
    found = Histogram.of(np.array([0.0, 1.0, 0.5]), np.array([False, True, True]))
    assert (found.negatives[0], found.positives[BINS - 1], found.positives[BINS // 2]) == (1, 1, 1)


@pytest.mark.parametrize("regime", REGIMES)
def test_areas_lie_within_their_bounds_and_close_to_the_exact_ones(regime: str) -> None:
    """AUROC within 0.004 (0.006 of 100 patients), precision within 0.02 (0.005 if many are ill)."""
    rng = np.random.default_rng(20140710)
    few = "30" in regime or regime == "100 patients"
    for _ in range(20):
        scores, ill = ward(rng, regime)
        found, area = Histogram.of(scores, ill), roc_auc_score(ill, scores)
        roc, pr = auroc(found), auprc(found)
        assert roc is not None
        assert pr is not None
        assert roc.low - 1e-12 <= area <= roc.high + 1e-12
        assert roc.value == pytest.approx(area, abs=LIMITS.get(regime, 0.004))
        precision = average_precision_score(ill, scores)
        assert pr.low - 1e-12 <= precision <= pr.high + 1e-12
        assert pr.value == pytest.approx(precision, abs=0.02 if few else 0.005)
        variance, delong = auroc_variance(found), exact.auroc_variance(scores, ill)
        assert variance is not None
        assert delong is not None
        assert variance**0.5 == pytest.approx(delong**0.5, rel=0.06)


def test_bins_that_are_ties_already_give_the_exact_areas() -> None:
    scores = np.array([0.1, 0.1, 0.4, 0.4, 0.4, 0.9])
    ill = np.array([False, True, False, True, True, True])
    found = auroc(Histogram.of(scores, ill))
    assert found is not None
    assert found.value == pytest.approx(roc_auc_score(ill, scores))
    variance = auroc_variance(Histogram.of(scores, ill))
    assert variance == pytest.approx(exact.auroc_variance(scores, ill))


def test_one_class_alone_has_no_areas_rather_than_areas_of_zero() -> None:
    nobody = Histogram.of(np.array([0.2, 0.3]), np.array([False, False]))
    assert (auroc(nobody), auprc(nobody), auroc_variance(nobody)) == (None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("regime", REGIMES)
def test_no_histogram_area_is_off_by_more_than_0_004(regime: str) -> None:
    """200 draws of each regime; of 100 patients, 1% may be off by up to 0.006."""
    rng = np.random.default_rng(20140711)
    errors = []
    for _ in range(200):
        scores, ill = ward(rng, regime)
        found = auroc(Histogram.of(scores, ill))
        assert found is not None
        errors.append(abs(found.value - roc_auc_score(ill, scores)))
    assert np.quantile(errors, 0.99) <= 0.004
    assert max(errors) <= LIMITS.get(regime, 0.004)
