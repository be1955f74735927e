"""Observed risk against lifelines; Graf's Brier score against its definition written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from numpy.typing import NDArray

from cohortium.common.metrics.kaplan_meier import UNKNOWN, brier, observed_risk

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Row = tuple[float, int, bool]  # predicted survival, time, event

ROWS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(1, 9), st.booleans()), min_size=1, max_size=30
)


def columns(rows: list[Row]) -> tuple[Floats, Floats, Flags]:
    survival, times, events = zip(*rows, strict=True)
    return np.array(survival, float), np.array(times, float), np.array(events, bool)


def watched_until(time: float, times: Floats, events: Flags) -> float:
    """P(not yet lost just before `time`): Kaplan-Meier of being lost, events first."""
    product = 1.0
    for lost in sorted(set(times[~events])):
        if lost < time:
            at_risk = ((times > lost) | ((times == lost) & ~events)).sum()
            product *= 1 - ((times == lost) & ~events).sum() / at_risk
    return product


def graf(survival: Floats, times: Floats, events: Flags, horizon: float) -> float:
    """Graf et al. 1999, equation of section 3.3, patient by patient."""
    total = 0.0
    for s, time, event in zip(survival, times, events, strict=True):
        if event and time <= horizon:
            total += s**2 / watched_until(time, times, events)
        elif time > horizon or time == horizon:
            total += (1 - s) ** 2 / watched_until(horizon, times, events)
    return total / len(times)


@given(ROWS, st.sampled_from([2.0, 4.5, 9.0]))
def test_the_brier_score_is_that_of_its_definition(rows: list[Row], horizon: float) -> None:
    survival, times, events = columns(rows)
    found = brier(survival, times, events, horizon)
    if found == UNKNOWN:
        assert max(times) <= horizon
        assert not events[times == times.max()].all()
        return
    assert found.value == pytest.approx(graf(survival, times, events, horizon), abs=1e-9)


@given(ROWS, st.sampled_from([2.0, 4.5, 9.0]))
def test_the_observed_risk_and_its_variance_are_those_of_lifelines(
    rows: list[Row], horizon: float
) -> None:
    _, times, events = columns(rows)
    found = observed_risk(times, events, horizon)
    if found == UNKNOWN:
        return
    fitted = KaplanMeierFitter().fit(times, events)
    assert found.value == pytest.approx(1 - fitted.predict(horizon), abs=1e-12)


def test_greenwood_s_variance_by_hand() -> None:
    """Events at 1 (of 4) and 3 (of 2): survival 3/4 * 1/2, sum 1/(4*3) + 1/(2*1)."""
    times, events = np.array([1.0, 2.0, 3.0, 5.0]), np.array([True, False, True, False])
    found = observed_risk(times, events, 4.0)
    assert found.value == pytest.approx(5 / 8)
    assert found.variance == pytest.approx((3 / 8) ** 2 * (1 / 12 + 1 / 2))


@given(ROWS, st.sampled_from([2.0, 4.5]))
def test_weighted_patients_show_the_risk_that_kaplan_and_meier_find(
    rows: list[Row], horizon: float
) -> None:
    """With survival 1 for everybody, Graf's score is the weighted share of events."""
    _, times, events = columns(rows)
    found = brier(np.ones(len(times)), times, events, horizon)
    expected = observed_risk(times, events, horizon)
    if UNKNOWN not in (found, expected):
        assert found.value == pytest.approx(expected.value, abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), min_size=2, max_size=30))
def test_without_censoring_it_is_the_plain_squared_error(rows: list[tuple[float, int]]) -> None:
    survival, times = np.array(rows, float).T
    found = brier(survival, times, np.ones(len(times), bool), 4.5)
    errors = (survival - (times > 4.5)) ** 2
    assert found.value == pytest.approx(errors.mean(), abs=1e-12)
    assert found.variance == pytest.approx(errors.var() / len(errors), abs=1e-12)


def test_its_variance_is_close_to_that_of_leaving_out_each_patient() -> None:
    rng = np.random.default_rng(20140710)
    n = 200
    times, events = (rng.exponential(1, n) + 0.1).round(1), rng.random(n) < 0.6
    survival = rng.random(n)
    left_out = [
        brier(np.delete(survival, k), np.delete(times, k), np.delete(events, k), 1.0).value
        for k in range(n)
    ]
    expected = (n - 1) * np.var(np.array(left_out, float))
    assert brier(survival, times, events, 1.0).variance == pytest.approx(expected, rel=0.02)


def test_a_horizon_that_nobody_reaches_is_unknown_not_zero() -> None:
    times, events = np.array([1.0, 2.0]), np.array([True, False])
    assert observed_risk(times, events, 3.0) == UNKNOWN
    assert brier(np.ones(2), times, events, 3.0) == UNKNOWN
    assert observed_risk(np.zeros(0), np.zeros(0, bool), 3.0) == UNKNOWN


def test_whoever_is_watched_exactly_to_the_horizon_is_free_of_the_event_there() -> None:
    times, events = np.array([1.0, 3.0, 3.0]), np.array([True, False, False])
    assert observed_risk(times, events, 3.0).value == pytest.approx(1 / 3)
    found = brier(np.array([0.0, 1.0, 1.0]), times, events, 3.0)
    assert (found.value, found.variance) == (0.0, 0.0)
