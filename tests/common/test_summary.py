"""Putting sites together: means and pooled rates by hand, and what is hidden stays unknown."""

import numpy as np
import pytest
from sklearn import metrics
from tests.outcomes import patients, study

from cohortium.common.metrics import multiclass, regression, survival
from cohortium.common.metrics.summary import summarise
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation

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
    reason="fewer than 10 patients in a cell",
)


def tally(tp: int, fp: int, tn: int, fn: int) -> BinaryTally:
    return BinaryTally(
        n=tp + fp + tn + fn,
        positives=tp + fn,
        correct=tp + tn,
        tp=tp,
        fp=fp,
        tn=tn,
        fn=fn,
        log_loss=0.5,
        auroc=0.75,
    )


def site(women: BinaryTally, overall: BinaryTally) -> SiteEvaluation:
    return SiteEvaluation(overall=overall, groups={"sex": {"female": women}})


def test_two_sites_and_a_silent_one_by_hand() -> None:
    summary = summarise(
        {
            "north": site(tally(3, 1, 5, 1), tally(30, 10, 50, 10)),  # 80 of 100 right
            "south": site(HIDDEN, tally(10, 10, 0, 0)),  # 10 of 20 right
            "east": site(HIDDEN, HIDDEN),
        }
    )
    assert summary.accuracy.unweighted == pytest.approx(0.65)
    assert summary.accuracy.weighted == pytest.approx(90 / 120)
    assert summary.accuracy.sites == 2
    assert summary.majority.unweighted == pytest.approx((0.6 + 0.5) / 2)
    assert summary.sites["east"].accuracy is None
    assert summary.sites["east"].reason == "fewer than 10 patients in a cell"
    (women,) = summary.groups
    assert (women.attribute, women.level, women.sites) == ("sex", "female", 3)
    assert women.accuracy.value == pytest.approx(0.8)
    assert (women.accuracy.of, women.accuracy.sites_shown) == (10, 1)
    assert women.sensitivity.value == pytest.approx(3 / 4)
    assert women.selection_rate.value == pytest.approx(4 / 10)


def test_sensitivity_of_a_group_without_positives_is_unknown_not_zero() -> None:
    women = summarise({"north": site(tally(0, 2, 8, 0), tally(5, 5, 5, 5))}).groups[0]
    assert (women.sensitivity.value, women.sensitivity.low, women.sensitivity.of) == (None, None, 0)
    assert women.accuracy.value == pytest.approx(0.8)


def test_nobody_measured_is_unknown() -> None:
    summary = summarise({"east": site(HIDDEN, HIDDEN)})
    assert (summary.accuracy.unweighted, summary.accuracy.weighted) == (None, None)
    assert summary.accuracy.sites == 0
    assert summarise({}).accuracy.unweighted is None


def test_a_headline_of_every_kind_of_outcome_and_fields_that_do_not_apply_unknown() -> None:
    expected = {
        "multiclass": {"log_loss", "accuracy"},
        "regression": {"mae", "rmse", "r2"},
        "survival": {"concordance", "brier"},
    }
    modules = {"multiclass": multiclass, "regression": regression, "survival": survival}
    for kind, names in expected.items():
        overall = modules[kind].tally(*patients(kind, 80, 1), study(kind), frozenset(), 0)
        found = summarise(
            {"north": SiteEvaluation(overall=overall, groups={"sex": {"f": overall}})}
        )
        assert set(found.headline) == names
        assert all(mean.unweighted is not None for mean in found.headline.values())
        assert found.sites["north"].n == 80
        assert (found.groups[0].accuracy.value is None) == (kind != "multiclass")
        assert (found.majority.unweighted is None) == (kind != "multiclass")


def test_the_headline_of_numbers_is_what_scikit_learn_says() -> None:
    predicted, outcome = patients("regression", 80, 1)
    overall = regression.tally(predicted, outcome, study("regression"), frozenset(), 0)
    found = summarise({"north": SiteEvaluation(overall=overall, groups={})}).headline
    assert found["r2"].unweighted == pytest.approx(metrics.r2_score(outcome, predicted))
    assert found["mae"].unweighted == pytest.approx(np.abs(outcome - predicted).mean())
