"""What sites send, put together, equals what one gets from all rows in one place."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from cohortium.common.document import parse
from cohortium.common.metrics.disclosure import suppress
from cohortium.common.metrics.performance import Performance, performance
from cohortium.common.metrics.tallies import BinaryTally, Called
from cohortium.common.metrics.tally import measure
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


WARDS = {name: ward(seed, 60 * seed) for seed, name in enumerate(("a", "b", "c", "d"), start=1)}
TALLIES = {
    name: measure(scores, labels, {}, STUDY).overall for name, (labels, scores) in WARDS.items()
}


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
    return suppress(measure(scores, labels, {}, STUDY), 5).overall


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
    split = {
        str(k): measure(scores[rows], labels[rows], {}, STUDY).overall
        for k, rows in enumerate(halves)
    }
    others = {site: one for site, one in TALLIES.items() if site != "d"}
    whole = performance(TALLIES, THRESHOLDS)
    for found, other in zip(performance({**split, **others}, THRESHOLDS), whole, strict=True):
        if found.pooled.value is not None:
            assert found.pooled.value == pytest.approx(other.pooled.value, abs=1e-12)
            assert found.pooled.low == pytest.approx(other.pooled.low, abs=1e-12)
            assert found.pooled.of == other.pooled.of
