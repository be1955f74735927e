"""Places, pairs and inputs: measured as scikit-learn does, pooled exactly, nobody shown alone."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics
from tests.outcomes import LENGTH, patients, study

from cohortium.common.document import parse
from cohortium.common.errors import DocumentError
from cohortium.common.metrics import contacts, labelling, reconstruction, survival
from cohortium.common.metrics.cube import OVERALL, hide
from cohortium.common.metrics.performance import Estimate, Performance, performance
from cohortium.common.metrics.summary import summarise
from cohortium.common.metrics.tallies import SiteEvaluation, Tally
from cohortium.common.study import Study

Floats = NDArray[np.float64]
Rows = tuple[Floats, Floats]

MODULES: dict[str, Any] = {
    "labelling": labelling,
    "contacts": contacts,
    "reconstruction": reconstruction,
}
NOTHING = frozenset[str]()


def tally(kind: str, rows: Rows, minimum_cell: int = 0) -> Any:
    return MODULES[kind].tally(*rows, study(kind), NOTHING, minimum_cell)


def measured(kind: str, sites: dict[str, Rows], minimum_cell: int = 0) -> tuple[Performance, ...]:
    found: dict[str, Tally] = {
        name: tally(kind, rows, minimum_cell) for name, rows in sites.items()
    }
    return performance(found, (0.5,))


def at(found: tuple[Performance, ...], measure: str, part: str = "") -> Performance:
    return next(one for one in found if (one.measure, one.part) == (measure, part))


def four_sites(kind: str) -> tuple[dict[str, Rows], Rows]:
    sites = {str(k): patients(kind, 30 + 20 * k, seed=k) for k in range(4)}
    together = tuple(np.concatenate(rows) for rows in zip(*sites.values(), strict=True))
    return sites, (together[0], together[1])


@pytest.mark.parametrize("kind", MODULES)
def test_what_sites_send_adds_up_to_all_patients_in_one_place(kind: str) -> None:
    sites, (predicted, outcome) = four_sites(kind)
    if kind == "reconstruction":  # each site about its own mean
        shift = [rows[1].mean(axis=0) for rows in sites.values() for _ in rows[1]]
        predicted, outcome = predicted - shift, outcome - shift
    spread, whole = measured(kind, sites), measured(kind, {"all": (predicted, outcome)})
    for one, other in zip(spread, whole, strict=True):
        assert one.pooled.value == pytest.approx(other.pooled.value, abs=1e-12), one.measure
        for end in ("low", "high"):
            expected = getattr(other.pooled, end)
            within = 5e-3 if kind == "reconstruction" else 1e-9
            assert getattr(one.pooled, end) == pytest.approx(expected, abs=within), one.measure


def test_places_are_measured_as_scikit_learn_does_where_each_patient_weighs_one() -> None:
    sites, (predicted, outcome) = four_sites("labelling")
    found, there = measured("labelling", sites), outcome >= 0
    weights = (there / there.sum(axis=1, keepdims=True))[there]
    true, called = outcome[there].astype(int), predicted.argmax(axis=2)[there]
    how = {"sample_weight": weights, "average": None, "labels": [0, 1, 2]}
    recalls = metrics.recall_score(true, called, **how)
    precisions = metrics.precision_score(true, called, **how)
    macro = metrics.f1_score(true, called, average="macro", sample_weight=weights)
    accuracy = metrics.accuracy_score(true, called, sample_weight=weights)
    lost = metrics.log_loss(true, predicted[there], sample_weight=weights)
    assert at(found, "accuracy").pooled.value == pytest.approx(accuracy)
    assert at(found, "macro_f1").pooled.value == pytest.approx(macro)
    assert at(found, "log_loss").pooled.value == pytest.approx(lost)
    for state, recall, precision in zip("HEC", recalls, precisions, strict=True):
        assert at(found, "sensitivity", state).pooled.value == pytest.approx(recall)
        assert at(found, "ppv", state).pooled.value == pytest.approx(precision)
    assert at(found, "accuracy").over_sites is not None


def test_pairs_are_counted_once_within_each_chain_by_its_own_length() -> None:
    sites, (predicted, outcome) = four_sites("contacts")
    fifth, whole, areas = [], [], []
    for said, seen in zip(predicted, outcome, strict=True):
        map_, asked = said.reshape(LENGTH, LENGTH), seen.reshape(LENGTH, LENGTH)
        length = max(i for i in range(LENGTH) if (asked[i] >= 0).any()) + 1
        pairs = [
            ((map_[i, j] + map_[j, i]) / 2, asked[i, j])
            for i in range(LENGTH)
            for j in range(i + 1, LENGTH)
            if asked[i, j] >= 0
        ]
        pairs.sort(key=lambda pair: -pair[0])
        fifth.append(np.mean([touch for _, touch in pairs[: length // 5]]))
        whole.append(np.mean([touch for _, touch in pairs[:length]]))
        areas.append(metrics.roc_auc_score([t for _, t in pairs], [s for s, _ in pairs]))
    found = measured("contacts", sites)
    assert at(found, "precision_l5").pooled.value == pytest.approx(np.mean(fifth))
    assert at(found, "precision_l").pooled.value == pytest.approx(np.mean(whole))
    assert at(found, "auroc").pooled.value == pytest.approx(np.mean(areas))
    guess = at(found, "contact_share").pooled.value
    assert guess is not None
    assert 0.05 < guess < 0.15 < np.mean(whole)


def test_inputs_given_back_are_compared_with_the_site_s_mean() -> None:
    predicted, outcome = patients("reconstruction", 100, seed=1)
    found = measured("reconstruction", {"a": (predicted, outcome)})
    error = ((predicted - outcome) ** 2).mean()
    assert at(found, "mse").pooled.value == pytest.approx(error)
    explained = metrics.r2_score(outcome, predicted, multioutput="variance_weighted")
    assert at(found, "variance_explained").pooled.value == pytest.approx(explained)
    mean = np.broadcast_to(outcome.mean(axis=0), outcome.shape)
    nothing = measured("reconstruction", {"a": (mean, outcome)})
    assert at(nothing, "variance_explained").pooled.value == pytest.approx(0.0)


def test_a_generator_gives_nobody_back_and_says_so() -> None:
    _, outcome = patients("reconstruction", 100, seed=1)
    found = measured("reconstruction", {"a": (np.zeros((100, 0)), outcome)}, 10)
    for one in found:
        assert one.sites["a"].value is None
        assert "a generator gives no patient back" in one.sites["a"].reason


@pytest.mark.parametrize(
    ("kind", "measure", "patients_there"),
    [
        ("labelling", "accuracy", 20),
        ("labelling", "sensitivity", 30),
        ("contacts", "precision_l5", 30),
        ("contacts", "auroc", 30),
        ("reconstruction", "mse", 30),
        ("reconstruction", "variance_explained", 50),
    ],
)
def test_an_interval_holds_the_truth_as_often_as_it_says(
    kind: str, measure: str, patients_there: int
) -> None:
    part = "H" if measure == "sensitivity" else ""
    many, draws = (1500, 120) if kind == "contacts" else (10_000, 300)
    truth = at(measured(kind, {"a": patients(kind, many, 99)}), measure, part).pooled.value
    assert truth is not None
    held = []
    for seed in range(draws):
        one = at(measured(kind, {"a": patients(kind, patients_there, seed)}), measure, part).pooled
        held.append((one.low or 0) <= truth <= (one.high or 0))
    assert np.mean(held) >= 0.90  # 0.93, less two standard errors of so few draws


# ------------------------------------------------------------------ what is not shown


@pytest.mark.parametrize("kind", MODULES)
def test_few_patients_show_nothing_but_why(kind: str) -> None:
    rows, asked = patients(kind, 9, seed=4), study(kind)
    hidden = hide(MODULES[kind].questions(*rows, asked), {}, (), 10).facets[OVERALL]
    found = MODULES[kind].tally(*rows, asked, hidden, 10)
    assert found.n is None
    assert "fewer than 10" in found.reason
    for one in performance({"a": found}, ()):
        assert one.sites["a"].value is None
        assert "fewer than 10" in one.sites["a"].reason


@pytest.mark.parametrize("kind", ["labelling", "contacts"])
def test_patients_of_whom_nothing_can_be_said_are_no_part_of_any_mean(kind: str) -> None:
    predicted, outcome = patients(kind, 40, seed=4)
    blank = outcome.copy()
    blank[:15] = -1
    found, rest = tally(kind, (predicted, blank)), tally(kind, (predicted[15:], outcome[15:]))
    assert (found.n, found.measured) == (40, 25)
    assert found.model_copy(update={"n": 25}) == rest
    few = blank.copy()
    few[:37] = -1
    hidden = hide(MODULES[kind].questions(predicted, few, study(kind)), {}, (), 10).facets[OVERALL]
    assert "measured" in hidden
    assert MODULES[kind].tally(predicted, few, study(kind), hidden, 10).measured is None


def test_a_state_that_few_patients_have_hides_all_states_but_not_the_accuracy() -> None:
    predicted, outcome = patients("labelling", 100, seed=4)
    outcome[3:][outcome[3:] == 2] = 1
    found = tally("labelling", (predicted, outcome), 10)
    assert found.right is not None
    assert {state.true for state in found.states.values()} == {None}
    assert "too few patients have places in a state" in found.reason
    shown = tally("labelling", patients("labelling", 100, seed=4), 10)
    assert all(state.true for state in shown.states.values())


def test_patients_who_are_all_right_are_not_counted_by_a_mean() -> None:
    _, outcome = patients("labelling", 60, seed=4)
    sure = np.eye(3)[np.clip(outcome, 0, None).astype(int)]
    sure[0] = np.roll(sure[0], 1, axis=1)
    found = tally("labelling", (sure, outcome), 10)
    assert (found.n, found.right) == (60, None)
    assert "differ so little" in found.reason


def test_one_patient_unlike_all_others_hides_the_means_of_inputs() -> None:
    predicted, outcome = patients("reconstruction", 60, seed=4)
    predicted[0] += 500
    found = tally("reconstruction", (predicted, outcome), 10)
    assert (found.n, found.squared, found.spread) == (60, None, None)
    assert found.reason == "one patient would make up most of it"


@pytest.mark.parametrize("kind", MODULES)
def test_rounding_moves_no_value_by_more_than_its_third_digit_and_no_interval_by_much(
    kind: str,
) -> None:
    sites = {"a": patients(kind, 150, seed=4)}
    for exact, shown in zip(measured(kind, sites), measured(kind, sites, 10), strict=True):
        assert shown.pooled.value == pytest.approx(exact.pooled.value, rel=6e-3), shown.measure
        assert _width(shown.pooled) == pytest.approx(_width(exact.pooled), rel=0.06, abs=1e-3)


def _width(one: Estimate) -> float:
    return 0.0 if one.low is None or one.high is None else one.high - one.low


# ------------------------------------------------------------------ Cox's ratios, and the rest


def test_log_hazard_ratios_are_ranked_and_only_what_happened_is_said_of_a_time() -> None:
    predicted, outcome = patients("cox", 200, seed=5)
    risks, _ = patients("survival", 200, seed=5)
    found = survival.tally(predicted, outcome, study("cox"), NOTHING, 10)
    other = survival.tally(risks, outcome, study("survival"), NOTHING, 10)
    assert (found.pairs, found.concordant) == (other.pairs, other.concordant)
    for one, with_risk in zip(found.horizons, other.horizons, strict=True):
        assert (one.brier, one.predicted) == (None, None)
        assert one.observed == with_risk.observed
    shown = performance({"a": found}, (), (1.0, 2.0))
    unknown = {one.measure: one.sites["a"].reason for one in shown if one.sites["a"].value is None}
    assert set(unknown) == {"brier", "predicted_risk", "observed_to_expected"}
    assert set(unknown.values()) == {"a hazard ratio alone gives no risk by a time"}


def test_a_summary_follows_what_each_outcome_is_followed_by() -> None:
    for kind, names in {
        "labelling": ["log_loss", "accuracy"],
        "contacts": ["precision_l5", "precision_l", "auroc"],
        "reconstruction": ["mse", "variance_explained"],
    }.items():
        found = tally(kind, patients(kind, 50, seed=1))
        summary = summarise({"a": SiteEvaluation(overall=found, groups={})})
        assert list(summary.headline) == names
        assert all(mean.unweighted is not None for mean in summary.headline.values())
    labels = tally("labelling", patients("labelling", 50, seed=1))
    site = summarise({"a": SiteEvaluation(overall=labels, groups={})}).sites["a"]
    assert site.majority == max(state.true or 0 for state in labels.states.values())


@pytest.mark.parametrize("kind", MODULES)
def test_attributes_are_refused_where_nothing_is_measured_by_group(kind: str) -> None:
    values = study(kind).model_dump(mode="json")
    values["fairness"]["attributes"] = ["ill"]
    with pytest.raises(DocumentError, match=f"not yet for a {kind} outcome"):
        parse(values, Study, "study.toml")
