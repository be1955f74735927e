"""Harrell's C against lifelines, and its variance against the jackknife."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines.utils import concordance_index

from cohortium.common.metrics.concordance import Concordance, concordance

Row = tuple[int, int, bool]  # risk, time, event

ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), min_size=1, max_size=40
)


def of(rows: list[Row]) -> Concordance:
    risk, times, events = (np.array(column) for column in zip(*rows, strict=True))
    return concordance(risk.astype(float), times.astype(float), events.astype(bool))


@given(ROWS)
def test_ties_of_risk_and_time_are_counted_as_lifelines_counts_them(rows: list[Row]) -> None:
    found = of(rows)
    risk, times, events = (np.array(column) for column in zip(*rows, strict=True))
    try:
        expected = concordance_index(times, -risk, events)
    except ZeroDivisionError:
        assert (found.pairs, found.concordant, found.variance) == (0, 0, None)
        return
    assert found.concordant / found.pairs == pytest.approx(expected, abs=1e-12)


def test_three_patients_by_hand() -> None:
    """Event at 1 of the highest risk, event at 2 of the lowest, the third still watched at 3."""
    found = of([(9, 1, True), (1, 2, True), (5, 3, False)])
    assert (found.concordant, found.pairs) == (2, 3)


def test_nobody_and_nobody_with_an_event_give_no_pairs_rather_than_an_error() -> None:
    nobody = np.zeros(0)
    assert concordance(nobody, nobody, nobody.astype(bool)) == Concordance(0, 0, None)
    assert of([(1, 1, False), (2, 2, False)]).pairs == 0


@pytest.mark.parametrize("patients", [60, 240])
def test_the_variance_is_close_to_that_of_leaving_out_each_patient(patients: int) -> None:
    """The infinitesimal jackknife is the first order of the jackknife: 1/n apart."""
    rng = np.random.default_rng(20140710)
    risk = rng.normal(size=patients).round(1)
    times, events = rng.exponential(np.exp(-risk)).round(2), rng.random(patients) < 0.6
    left_out = []
    for k in range(patients):
        one = concordance(np.delete(risk, k), np.delete(times, k), np.delete(events, k))
        left_out.append(one.concordant / one.pairs)
    expected = (patients - 1) * np.var(left_out)
    assert concordance(risk, times, events).variance == pytest.approx(expected, rel=6 / patients)


def test_order_of_patients_is_without_effect() -> None:
    rng = np.random.default_rng(7)
    rows = [(int(r), int(t), bool(e)) for r, t, e in rng.integers(0, [4, 9, 2], (50, 3))]
    found, turned = of(rows), of(rows[::-1])
    assert (found.pairs, found.concordant) == (turned.pairs, turned.concordant)
    assert found.variance == pytest.approx(turned.variance, rel=1e-12)
