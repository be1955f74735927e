"""What sites send, put together, equals what one gets from all rows in one place."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from cohortium.common.document import parse
from cohortium.common.metrics.evaluation import FEDERATED, evaluate
from cohortium.common.metrics.performance import Performance, by_group, performance
from cohortium.common.metrics.tallies import BinaryTally, Calibration, Called, SiteEvaluation
from cohortium.common.study import Study

THRESHOLDS = (0.5, 0.3, 0.75)
STUDY = parse(
    {
        "name": "made-up",
        "purpose": {"text": "to test the measures", "duo": "GRU", "legal_basis": "consent"},
        "data": {"dataset": "ward", "features": ["age"]},
        "data_model": {
            "name": "ward",
            "columns": {
                "age": {"kind": "number", "low": 0.0, "high": 100.0},
                "ill": {"kind": "flag"},
            },
        },
        "task": {"kind": "binary", "label": "ill", "positive_codes": ["1"]},
        "model": {"name": "logistic"},
        "split": {"test_fraction": 0.5},
        "training": {"rounds": 1, "batches": "full"},
        "privacy": {"mechanism": "none"},
        "evaluation": {"thresholds": THRESHOLDS},
        "sites": {"names": ["north"], "min_sites": 1},
    },
    Study,
    "study.toml",
)

Labels = NDArray[np.float32]
Scores = NDArray[np.float64]


def ward(seed: int, patients: int) -> tuple[Labels, Scores]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(patients) < 0.1 + 0.1 * seed).astype(np.float32)
    return labels, 1 / (1 + np.exp(-rng.normal(2 * labels - 1, 1.5)))


def measured(labels: Labels, scores: Scores, minimum: int = 0) -> BinaryTally:
    found = evaluate({FEDERATED: scores}, labels, {}, STUDY, minimum).overall
    assert isinstance(found, BinaryTally)
    return found


WARDS = {name: ward(seed, 60 * seed) for seed, name in enumerate(("a", "b", "c", "d"), start=1)}
TALLIES = {name: measured(*rows) for name, rows in WARDS.items()}


def at(found: Iterable[Performance], name: str, threshold: float | None = None) -> Performance:
    return next(p for p in found if (p.measure, p.threshold) == (name, threshold))


def tally(n: int, tp: int, fp: int, tn: int, fn: int) -> BinaryTally:
    return BinaryTally(
        n=n,
        positives=tp + fn,
        correct=tp + tn,
        tp=tp,
        fp=fp,
        tn=tn,
        fn=fn,
        log_loss=0.5,
        auroc=0.8,
        auroc_variance=0.002,
    )


ORACLES: dict[str, Callable[[Labels, NDArray[np.bool_]], float]] = {
    "accuracy": metrics.accuracy_score,
    "sensitivity": metrics.recall_score,
    "specificity": lambda y, called: metrics.recall_score(1 - y, ~called),
    "ppv": metrics.precision_score,
    "npv": lambda y, called: metrics.precision_score(1 - y, ~called),
    "f1": metrics.f1_score,
    "mcc": metrics.matthews_corrcoef,
    "balanced_accuracy": metrics.balanced_accuracy_score,
    "selection_rate": lambda y, called: float(called.mean()),
}


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("name", ORACLES)
def test_counts_of_four_sites_give_what_scikit_learn_gives_on_their_pooled_rows(
    name: str, threshold: float
) -> None:
    labels = np.concatenate([ward[0] for ward in WARDS.values()])
    scores = np.concatenate([ward[1] for ward in WARDS.values()])
    found = at(performance(TALLIES, THRESHOLDS), name, threshold)
    assert found.pooled.value == pytest.approx(ORACLES[name](labels, scores > threshold), abs=1e-12)
    for site, (own, at_site) in WARDS.items():
        expected = ORACLES[name](own, at_site > threshold)
        assert found.sites[site].value == pytest.approx(expected, abs=1e-12)


def test_scores_of_four_sites_give_what_scikit_learn_gives_on_their_pooled_rows() -> None:
    labels = np.concatenate([ward[0] for ward in WARDS.values()])
    scores = np.concatenate([ward[1] for ward in WARDS.values()])
    found = performance(TALLIES, THRESHOLDS)
    assert at(found, "brier").pooled.value == pytest.approx(
        metrics.brier_score_loss(labels, scores), abs=1e-12
    )
    squares = (scores - labels) ** 2
    low, high = at(found, "brier").pooled.low, at(found, "brier").pooled.high
    reach = 1.959964 * squares.std() / math.sqrt(len(squares))
    assert (low, high) == pytest.approx((squares.mean() - reach, squares.mean() + reach), rel=1e-6)
    log_loss = at(found, "log_loss").pooled
    assert log_loss.value == pytest.approx(metrics.log_loss(labels, scores), abs=1e-12)
    assert (log_loss.low, log_loss.reason) == (
        None,
        "sites send nothing that says how precise it is",
    )
    assert at(found, "prevalence").pooled.value == pytest.approx(labels.mean())
    expected = labels.sum() / scores.sum()
    assert at(found, "observed_to_expected").pooled.value == pytest.approx(expected)


def test_rounding_at_the_site_moves_a_pooled_mean_by_less_than_it_rounds() -> None:
    shown = {site: suppress_one(one) for site, one in TALLIES.items()}
    exact = at(performance(TALLIES, THRESHOLDS), "brier").pooled
    rounded = at(performance(shown, THRESHOLDS), "brier").pooled
    assert rounded.value == pytest.approx(exact.value, abs=5e-4)
    assert rounded.high == pytest.approx(exact.high, abs=1e-3)


def suppress_one(one: BinaryTally) -> BinaryTally:
    labels, scores = next(WARDS[site] for site, found in TALLIES.items() if found is one)
    return measured(labels, scores, 5)


def test_areas_are_averaged_over_sites_and_never_pooled() -> None:
    found = at(performance(TALLIES, THRESHOLDS), "auroc")
    for site, (labels, scores) in WARDS.items():
        assert found.sites[site].value == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert (found.pooled.value, found.pooled.reason) == (
        None,
        "patients of different sites are compared by no site",
    )
    values = [one.value for one in found.sites.values() if one.value is not None]
    assert found.over_sites is not None
    assert min(values) < found.over_sites.low < found.over_sites.mean < found.over_sites.high < 1
    assert found.over_sites.new_low <= found.over_sites.low


def test_a_perfect_classifier_has_no_gap_where_nobody_is_ill() -> None:
    """Sensitivity of a ward without sick patients is unknown; the other's is 1, and the pooled."""
    found = at(
        performance({"a": tally(40, 20, 0, 20, 0), "b": tally(30, 0, 0, 30, 0)}, (0.5,)),
        "sensitivity",
        0.5,
    )
    assert (found.sites["a"].value, found.sites["a"].of) == (1.0, 20)
    assert (found.sites["b"].value, found.sites["b"].reason) == (None, "there is nobody to count")
    assert (found.pooled.value, found.pooled.of) == (1.0, 20)
    assert (found.over_sites, found.reason) == (
        None,
        "fewer than three sites show it with an interval",
    )


def test_what_a_site_hides_is_left_out_of_the_pool_and_said() -> None:
    hidden = suppress_all("fewer than 10 patients in a cell")
    found = performance({"a": tally(40, 10, 10, 10, 10), "b": hidden}, (0.5, 0.3))
    accuracy = at(found, "accuracy", 0.5)
    assert (accuracy.pooled.value, accuracy.pooled.of) == (0.5, 40)
    assert accuracy.sites["b"].reason == "fewer than 10 patients in a cell"
    further = at(found, "accuracy", 0.3)
    assert (further.pooled.value, further.pooled.reason) == (None, "no site shows it")


def suppress_all(reason: str) -> BinaryTally:
    nothing = dict.fromkeys(
        ("n", "positives", "correct", "tp", "fp", "tn", "fn", "log_loss", "auroc")
    )
    return parse({**nothing, "reason": reason}, BinaryTally, "message")


def test_an_empty_margin_makes_mcc_unknown_not_zero() -> None:
    found = at(performance({"a": tally(40, 0, 0, 20, 20)}, (0.5,)), "mcc", 0.5)
    assert (found.sites["a"].value, found.pooled.value) == (None, None)


def test_a_perfect_score_has_no_interval_rather_than_one_of_no_width() -> None:
    perfect = tally(40, 20, 0, 20, 0).model_copy(update={"auroc": 1.0, "auroc_variance": 0.0})
    found = performance({"a": perfect}, (0.5,))
    for name, threshold in (("auroc", None), ("mcc", 0.5)):
        one = at(found, name, threshold).sites["a"]
        assert (one.value, one.low, one.high) == (1.0, None, None)
        assert one.reason == "too few patients, or too perfect a result, for an interval"


def test_three_equal_sites_by_hand() -> None:
    """Sensitivity 30/40 thrice: logit log 3, variance 1/30 + 1/10, none of it between sites."""
    found = at(
        performance({name: tally(100, 30, 20, 40, 10) for name in "abc"}, (0.5,)),
        "sensitivity",
        0.5,
    )
    over = found.over_sites
    assert over is not None
    assert (over.low, over.mean, over.high) == pytest.approx((0.75, 0.75, 0.75))
    assert (over.tau2, over.sites) == (0.0, 3)
    assert found.pooled.value == 0.75


def test_numbers_at_the_edge_of_what_a_message_may_say_overflow_nothing() -> None:
    wild = [
        tally(40, 10, 10, 10, 10).model_copy(
            update={
                "mean_score": 1e-300 if k else 1.0,
                "auroc": 0.5 + k / 3,
                "auroc_variance": 1e-24,
            }
        )
        for k in (0, 0.5, 1)
    ]
    found = performance({str(k): one for k, one in enumerate(wild)}, (0.5,))
    assert all(math.isfinite(one.over_sites.new_high) for one in found if one.over_sites)


def test_a_further_threshold_uses_its_own_counts() -> None:
    one = tally(40, 10, 10, 10, 10).model_copy(update={"further": (Called(tp=15, fp=10),)})
    found = performance({"a": one}, (0.5, 0.3))
    assert at(found, "sensitivity", 0.3).pooled.value == 0.75
    assert at(found, "npv", 0.3).pooled.value == pytest.approx(10 / 15)


def test_how_patients_are_spread_over_sites_does_not_change_what_is_pooled() -> None:
    (labels, scores), half = WARDS["d"], len(WARDS["d"][0]) // 2
    halves = (slice(None, half), slice(half, None))
    split = {str(k): measured(labels[rows], scores[rows]) for k, rows in enumerate(halves)}
    others = {site: one for site, one in TALLIES.items() if site != "d"}
    whole = performance(TALLIES, THRESHOLDS)
    for found, other in zip(performance({**split, **others}, THRESHOLDS), whole, strict=True):
        if found.pooled.value is not None:
            assert found.pooled.value == pytest.approx(other.pooled.value, abs=1e-12)
            assert found.pooled.low == pytest.approx(other.pooled.low, abs=1e-12)
            assert found.pooled.of == other.pooled.of


def test_net_benefit_by_hand() -> None:
    """Of 40 patients 10 rightly and 10 wrongly called, a wrong one at 0.2 weighing a quarter."""
    found = performance({"a": tally(40, 10, 10, 10, 10)}, (0.2,))
    one = at(found, "net_benefit", 0.2).pooled
    value = (10 - 10 / 4) / 40
    reach = 1.959964 * math.sqrt(((10 + 10 / 16) / 40 - value**2) / 40)
    assert (one.value, one.low, one.high) == pytest.approx((value, value - reach, value + reach))


def test_net_benefit_of_every_threshold_weighs_by_its_own() -> None:
    one = tally(40, 10, 10, 10, 10).model_copy(update={"further": (Called(tp=15, fp=10),)})
    found = performance({"a": one}, (0.5, 0.2))
    assert at(found, "net_benefit", 0.5).pooled.value == pytest.approx(0.0)
    assert at(found, "net_benefit", 0.2).pooled.value == pytest.approx((15 - 10 / 4) / 40)


def test_average_precision_has_boyd_s_logit_interval_and_is_never_pooled() -> None:
    areas = (0.4, 0.5, 0.6)
    found = at(
        performance(
            {
                str(k): tally(100, 20, 20, 40, 20).model_copy(update={"auprc": area})
                for k, area in enumerate(areas)
            },
            (0.5,),
        ),
        "auprc",
    )
    low, high = (1 / (1 + math.exp(-end * 1.959964 / math.sqrt(40 * 0.25))) for end in (-1, 1))
    assert (found.sites["1"].low, found.sites["1"].high) == pytest.approx((low, high))
    assert found.pooled.value is None
    assert found.over_sites is not None
    assert found.over_sites.mean == pytest.approx(0.5)


def test_calibration_of_sites_is_averaged_with_their_own_variances() -> None:
    def fitted(slope: float) -> BinaryTally:
        fit = Calibration(
            intercept=0.1,
            slope=slope,
            intercept_variance=0.01,
            slope_variance=0.04,
            covariance=0.0,
        )
        return tally(100, 20, 20, 40, 20).model_copy(update={"calibration": fit})

    tallies = {str(slope): fitted(slope) for slope in (0.8, 1.0, 1.2)}
    found = at(performance(tallies, (0.5,)), "calibration_slope")
    assert found.sites["0.8"].low == pytest.approx(0.8 - 1.959964 * 0.2)
    assert found.over_sites is not None
    assert found.over_sites.mean == pytest.approx(1.0)
    assert "pooled calibration" in found.pooled.reason


def test_measures_of_groups_name_every_group_and_leave_out_the_intervals_of_noisy_counts() -> None:
    study = STUDY
    women, men = tally(40, 10, 10, 10, 10), tally(40, 15, 5, 15, 5)
    sites = {
        name: SiteEvaluation(overall=women, groups={"sex": {"female": women, "male": men}})
        for name in ("north", "south", "east")
    }
    found = by_group(sites, study)
    assert set(found) == {("sex", "female"), ("sex", "male")}
    one = at(found["sex", "male"], "sensitivity", 0.5)
    assert (one.pooled.value, one.pooled.of) == (0.75, 60)
    assert list(one.sites) == ["north", "south", "east"]
    noisy = {name: one.model_copy(update={"noise_std": 3.0}) for name, one in sites.items()}
    other = at(by_group(noisy, study)["sex", "male"], "sensitivity", 0.5)
    assert (other.pooled.value, other.pooled.low, other.over_sites) == (0.75, None, None)
    assert "noise" in other.pooled.reason


def test_counts_that_noise_made_impossible_break_nothing() -> None:
    odd = BinaryTally(
        n=10,
        positives=14,
        correct=12,
        tp=9,
        fp=0,
        tn=3,
        fn=0,
        log_loss=None,
        auroc=None,
        further=(Called(tp=20, fp=1),),
    )
    for one in performance({"a": odd}, (0.5, 0.3)):
        assert one.pooled.value is None or math.isfinite(one.pooled.value)


def test_no_site_at_all_is_no_result_rather_than_an_error() -> None:
    assert all(one.pooled.value is None for one in performance({}, (0.5,)))
