"""Curves from counts: against the same worked out on all patients together, or by hand."""

import math

import numpy as np
import pytest
from tests.server.report_samples import Array, binary_tally

from cohortium.common.metrics.intervals import wilson
from cohortium.common.metrics.tallies import AtHorizon, BinaryTally, Bins, SurvivalTally, Tally
from cohortium.server.reports.curves import (
    horizons,
    net_benefit,
    reliability,
    site_calibration,
)

HIDDEN = BinaryTally(
    n=None,
    positives=None,
    correct=None,
    tp=None,
    fp=None,
    tn=None,
    fn=None,
    log_loss=None,
    auroc=None,
    reason="small",
)


def patients(seed: int, n: int) -> tuple[Array, "np.ndarray[tuple[int], np.dtype[np.bool_]]"]:
    rng = np.random.default_rng(seed)
    score = rng.random(n)
    return score, rng.random(n) < score


def test_net_benefit_of_two_sites_is_that_of_their_patients_together() -> None:
    (one, ill), (two, sick) = patients(1, 4000), patients(2, 3000)
    tallies: dict[str, Tally] = {
        "a": binary_tally(one, ill, overall=True),
        "b": binary_tally(two, sick, overall=True),
        "c": HIDDEN,
    }
    score, outcome = np.concatenate((one, two)), np.concatenate((ill, sick))
    found = net_benefit(tallies, (0.5, 0.3))
    assert [point.threshold for point in found] == [
        0.125,
        0.25,
        0.3,
        0.375,
        0.5,
        0.625,
        0.75,
        0.875,
    ]
    for point in found:
        odds = point.threshold / (1 - point.threshold)
        called = score > point.threshold
        each = (called & outcome) - odds * (called & ~outcome)
        assert point.value == pytest.approx(each.mean(), abs=1e-12)
        reach = 1.96 * each.std() / math.sqrt(7000)
        assert point.high - point.value == pytest.approx(reach, rel=1e-3)
        assert point.treat_all == pytest.approx((outcome - odds * ~outcome).mean(), abs=1e-12)
        assert (point.sites, point.n) == (2, 7000)


def test_a_threshold_that_a_site_does_not_show_leaves_the_site_out_there_only() -> None:
    score, ill = patients(3, 200)
    whole = binary_tally(score, ill)
    tallies: dict[str, Tally] = {"a": whole, "b": whole.model_copy(update={"further": ()})}
    assert [(one.threshold, one.sites) for one in net_benefit(tallies, (0.5, 0.3))] == [
        (0.3, 1),
        (0.5, 2),
    ]
    assert net_benefit({"c": HIDDEN}, (0.5,)) == ()


def test_curves_are_pooled_in_the_bins_that_all_sites_have() -> None:
    fine = Bins(n=(10, 20, 0, 40), positives=(1, 5, 0, 35), mean_score=(0.1, 0.4, None, 0.9))
    coarse = Bins(n=(30, 10), positives=(6, 8), mean_score=(0.2, 0.8))
    tallies = {
        name: HIDDEN.model_copy(update={"bins": bins})
        for name, bins in (("a", fine), ("b", coarse))
    }
    everybody = reliability(tallies)[-1]
    assert [one.n for one in everybody.bins] == [60, 50]
    assert [one.observed for one in everybody.bins] == [12 / 60, 43 / 50]
    assert [one.mean_score for one in everybody.bins] == pytest.approx([15 / 60, 44 / 50])


def test_an_empty_bin_has_no_observed_share_and_a_hidden_site_a_reason() -> None:
    bins = Bins(n=(10, 0), positives=(4, 0), mean_score=(0.3, None))
    shown = HIDDEN.model_copy(update={"n": 10, "positives": 4, "bins": bins, "reason": ""})
    site, hidden, everybody = reliability({"a": shown, "b": HIDDEN})
    assert site.bins[0].observed == 0.4
    assert (site.bins[0].observed_low, site.bins[0].observed_high) == wilson(4, 10)
    assert site.bins[1].observed is None
    assert (hidden.bins, hidden.reason) == ((), "small")
    assert (everybody.site, everybody.sites) == (None, 1)
    assert reliability({"b": HIDDEN}) == ()
    assert site_calibration({"b": HIDDEN}) == ()


def clinic(n: int | None, observed: float, variance: float | None = 0.001) -> SurvivalTally:
    at = AtHorizon(
        brier=None,
        brier_variance=None,
        predicted=0.3,
        observed=observed,
        observed_variance=variance,
    )
    return SurvivalTally(
        n=n, events=None, pairs=None, concordant=None, c_variance=None, horizons=(at,)
    )


def test_risk_over_all_patients_is_the_mean_of_the_sites_by_patients() -> None:
    found = horizons({"a": clinic(100, 0.2), "b": clinic(300, 0.4, 0.002)}, (365.0,))
    everybody = found[-1]
    assert (everybody.site, everybody.sites, everybody.n) == (None, 2, 400)
    assert everybody.observed == pytest.approx(0.35)
    # The interval by hand: log(-log S) with S = 0.65 and variance (0.001 + 9 * 0.002) / 16.
    survival, error = 0.65, math.sqrt(0.019 / 16)
    reach = 1.959964 * error / (survival * -math.log(survival))
    assert everybody.observed_low == pytest.approx(1 - survival ** math.exp(-reach), abs=1e-6)
    assert everybody.observed_high == pytest.approx(1 - survival ** math.exp(reach), abs=1e-6)


def test_a_site_whose_risk_is_hidden_is_left_out_and_no_variance_gives_no_interval() -> None:
    hidden = clinic(None, 0.2).model_copy(update={"horizons": (), "reason": "small"})
    first, second, everybody = horizons({"a": clinic(50, 0.2, None), "b": hidden}, (365.0,))
    assert (first.observed_low, first.observed) == (None, 0.2)
    assert (second.observed, second.reason) == (None, "small")
    assert (everybody.sites, everybody.observed_low) == (1, None)
    assert horizons({"b": hidden}, (365.0,))[-1].reason == "no site shows it"
