"""What sites send, compared by group, equals fairlearn and scikit-learn on the pooled rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, precision_score, roc_auc_score
from tests.audited import Rows, evaluation, pooled, study, ward

from cohortium.common.document import canonical
from cohortium.common.evaluating import Criterion
from cohortium.common.fairness.audit import audit
from cohortium.common.fairness.counts import Group, group, together
from cohortium.common.fairness.verdicts import Contrast, FairnessAudit

WARDS = {
    "north": ward(1, 150, harder="female"),
    "south": ward(2, 240),
    "west": ward(3, 90, harder="none"),
}
AUDIT = audit(study(), {site: evaluation(rows) for site, rows in WARDS.items()})
ROWS = pooled(WARDS)
ORACLES: dict[Criterion, Callable[..., float]] = {
    "demographic_parity": selection_rate,
    "equal_opportunity": true_positive_rate,
    "false_positive_rate": false_positive_rate,
    "predictive_parity": lambda y, called: precision_score(y, called, zero_division=0),
    "accuracy": accuracy_score,
}
REFERENCES = {"sex": "male", "insurance": "public", "sex x insurance": "male x public"}
EXACTLY = 1e-12


def contrasts(audit: FairnessAudit, **wanted: Any) -> list[Contrast]:
    return [c for c in audit.contrasts if all(getattr(c, k) == v for k, v in wanted.items())]


def frame(rows: Rows, criterion: Criterion, features: NDArray[Any]) -> MetricFrame:
    return MetricFrame(
        metrics=ORACLES[criterion],
        y_true=rows["ill"],
        y_pred=rows["score"] > 0.5,
        sensitive_features=features,
    )


def column(rows: Rows, attribute: str) -> NDArray[Any]:
    if attribute in rows:
        return rows[attribute]
    return np.char.add(np.char.add(rows["sex"], " x "), rows["insurance"])


@pytest.mark.parametrize("criterion", ORACLES)
@pytest.mark.parametrize("attribute", REFERENCES)
@pytest.mark.parametrize("site", [None, *WARDS])
def test_values_of_groups_are_those_of_fairlearn_on_all_rows(
    criterion: Criterion, attribute: str, site: str | None
) -> None:
    rows = ROWS if site is None else WARDS[site]
    by_group = frame(rows, criterion, column(rows, attribute)).by_group
    found = contrasts(AUDIT, attribute=attribute, criterion=criterion, site=site)
    assert len(found) == by_group.size - 1
    for one in found:
        if one.value is None:
            assert one.verdict == "not measured"
            continue
        assert one.value == pytest.approx(by_group[one.level], abs=EXACTLY)
        assert one.reference_value == pytest.approx(by_group[one.reference], abs=EXACTLY)
        assert one.gap == pytest.approx(by_group[one.level] - by_group[one.reference], abs=EXACTLY)
        ill = rows["ill"][column(rows, attribute) == one.level]
        assert one.n == len(ill)
        assert one.base_rate == pytest.approx(ill.mean(), abs=EXACTLY)


def test_differences_of_an_attribute_are_those_of_fairlearn() -> None:
    for attribute in REFERENCES:
        features = {"sensitive_features": column(ROWS, attribute)}
        rows = (ROWS["ill"], ROWS["score"] > 0.5)
        parity = [
            c.gap
            for c in contrasts(
                AUDIT, attribute=attribute, criterion="demographic_parity", site=None
            )
        ]
        assert span(parity) == pytest.approx(
            demographic_parity_difference(*rows, **features), abs=EXACTLY
        )
        odds = [
            span([c.gap for c in contrasts(AUDIT, attribute=attribute, criterion=one, site=None)])
            for one in ("equal_opportunity", "false_positive_rate")
        ]
        assert max(odds) == pytest.approx(equalized_odds_difference(*rows, **features), abs=EXACTLY)


def span(gaps: list[float | None]) -> float:
    known = [0.0, *(gap for gap in gaps if gap is not None)]
    return max(known) - min(known)


def test_a_site_against_all_others_is_their_rows_against_its() -> None:
    for criterion in ORACLES:
        for one in contrasts(AUDIT, attribute="site", criterion=criterion):
            by_group = frame(ROWS, criterion, ROWS["site"] == one.level).by_group
            assert one.value == pytest.approx(by_group[True], abs=EXACTLY)
            assert one.reference_value == pytest.approx(by_group[False], abs=EXACTLY)
            assert one.sites == tuple(WARDS)


def test_areas_and_calibration_of_groups_are_those_of_their_rows() -> None:
    for site, rows in WARDS.items():
        for one in contrasts(AUDIT, attribute="sex", criterion="auroc", site=site):
            among = rows["sex"] == one.level
            expected = roc_auc_score(rows["ill"][among], rows["score"][among])
            assert one.value == pytest.approx(expected, abs=EXACTLY)
    for one in contrasts(AUDIT, attribute="sex", criterion="calibration", site=None):
        ratios = [
            ROWS["ill"][ROWS["sex"] == sex].sum() / ROWS["score"][ROWS["sex"] == sex].sum()
            for sex in ("female", "male")
        ]
        assert (one.value, one.reference_value) == pytest.approx(tuple(ratios), abs=EXACTLY)
        assert one.gap == pytest.approx(ratios[0] / ratios[1], abs=EXACTLY)


@given(st.permutations(sorted(WARDS)))
@settings(max_examples=6, deadline=None)
def test_the_order_in_which_sites_answer_does_not_matter(order: list[str]) -> None:
    found = audit(study(), {site: evaluation(WARDS[site]) for site in order})
    assert canonical(found) == canonical(AUDIT)


@given(st.lists(st.tuples(*[st.integers(0, 300)] * 4), min_size=1, max_size=6), st.randoms())
def test_groups_add_up_in_any_order_and_any_grouping(
    tables: list[tuple[int, int, int, int]], random: Any
) -> None:
    def one(table: tuple[int, int, int, int]) -> Group:
        tp, fp, tn, fn = table
        n, positives = sum(table), tp + fn
        return Group(
            n=n, positives=positives, correct=tp + tn, tp=tp, fp=fp, tn=tn, fn=fn, expected=0.5
        )

    groups = [one(table) for table in tables]
    cut = random.randint(0, len(groups))
    shuffled = random.sample(groups, len(groups))
    whole = together(groups)
    assert together(shuffled) == whole
    assert together([together(groups[:cut]), together(groups[cut:])]) == whole
    assert whole.tp == sum(table[0] for table in tables)


def test_what_one_site_hides_is_not_read_as_zero() -> None:
    shown = group(evaluation(WARDS["north"]).overall)  # type: ignore[arg-type]
    assert together([shown, Group(n=40, reason="hidden")]).tp is None
