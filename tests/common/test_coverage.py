"""How often the intervals of `performance` hold the truth, by simulation.

Each test states its regime; in it, 95% intervals hold the truth in 0.93 to 0.97 of 3000 draws
(simulation error 0.004). What was found outside is in the docstrings of the measures.
"""

from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from cohortium.common.metrics import concordance as c_index
from cohortium.common.metrics import measures_binary, measures_classes
from cohortium.common.metrics.auprc import average_precision
from cohortium.common.metrics.kaplan_meier import brier, observed_risk
from cohortium.common.metrics.measures import Found, Measure
from cohortium.common.metrics.measures_regression import REGRESSION
from cohortium.common.metrics.measures_survival import AT_HORIZONS, SURVIVAL
from cohortium.common.metrics.reliability import expected_error

pytestmark = pytest.mark.slow

Floats = NDArray[np.float64]
DRAWS = 3000


def coverage(found: Iterable[Found | None], truth: float) -> float:
    """Among the draws with an interval, which must be nearly all."""
    intervals = [one.interval if one else None for one in found]
    known = [one for one in intervals if one]
    assert len(known) > 0.98 * len(intervals)
    return float(np.mean([low <= truth <= high for low, high in known]))


def named(measures: Iterable[Measure], name: str) -> Measure:  # type: ignore[type-arg]
    return next(one for one in measures if one.name == name)


@pytest.mark.parametrize(
    ("patients", "prevalence", "sensitivity", "specificity", "threshold"),
    [
        (200, 0.3, 0.8, 0.7, 0.3),
        (500, 0.1, 0.8, 0.8, 0.1),
        (100, 0.5, 0.9, 0.8, 0.5),
        (1000, 0.05, 0.7, 0.8, 0.2),
    ],
)
def test_net_benefit_and_balanced_accuracy_from_ten_patients_in_each_cell(
    patients: int, prevalence: float, sensitivity: float, specificity: float, threshold: float
) -> None:
    ill, well = prevalence, 1 - prevalence
    shares = (
        ill * sensitivity,
        well * (1 - specificity),
        well * specificity,
        ill * (1 - sensitivity),
    )
    odds = threshold / (1 - threshold)
    rng = np.random.default_rng(20140710)
    drawn = rng.multinomial(patients, shares, DRAWS).astype(float)
    net = named(measures_binary.AT_THRESHOLDS, "net_benefit").found
    balanced = named(measures_binary.AT_THRESHOLDS, "balanced_accuracy").found
    benefit = [net((tp - odds * fp, tp + odds**2 * fp, patients)) for tp, fp, _, _ in drawn]
    assert 0.93 <= coverage(benefit, shares[0] - odds * shares[1]) <= 0.97
    mean = (sensitivity + specificity) / 2
    assert 0.93 <= coverage((balanced(tuple(cells)) for cells in drawn), mean) <= 0.97


@pytest.mark.parametrize(
    ("patients", "prevalence", "apart"),
    [(100, 0.3, 1.0), (200, 0.3, 1.5), (500, 0.1, 1.5), (1000, 0.05, 1.0), (2000, 0.02, 2.0)],
)
def test_average_precision_between_015_and_075_from_thirty_positives(
    patients: int, prevalence: float, apart: float
) -> None:
    rng = np.random.default_rng(20140710)
    many = rng.random(2_000_000) < prevalence
    truth = average_precision(rng.normal(size=len(many)) + apart * many, many)
    assert truth is not None
    found = []
    of = named(measures_binary.WHOLE, "auprc").found
    for _ in range(DRAWS):
        ill = rng.random(patients) < prevalence
        area = average_precision(rng.normal(size=patients) + apart * ill, ill)
        found.append(of((area or 0.0, float(ill.sum()), patients)))
    assert 0.93 <= coverage(found, truth) <= 0.97


@pytest.mark.parametrize(
    ("patients", "prevalence", "right"),
    [
        (90, (1 / 3, 1 / 3, 1 / 3), 0.7),
        (300, (0.7, 0.2, 0.1), 0.8),
        (300, (0.2, 0.2, 0.2, 0.2, 0.2), 0.6),
        (600, (0.5, 0.3, 0.15, 0.05), 0.85),
    ],
)
@pytest.mark.parametrize("name", ["macro_sensitivity", "macro_ppv", "macro_f1"])
def test_macro_averages_from_thirty_patients_in_each_class(
    name: str, patients: int, prevalence: tuple[float, ...], right: float
) -> None:
    size = len(prevalence)
    wrong = (1 - right) / (size - 1)
    calls = np.full((size, size), wrong) + (right - wrong) * np.eye(size)
    cells = (np.array(prevalence)[:, None] * calls).ravel()
    of = named(measures_classes.MULTICLASS, name).found
    truth = of(tuple(cells * 1e9))
    assert truth is not None
    rng = np.random.default_rng(20140710)
    drawn = rng.multinomial(patients, cells / cells.sum(), DRAWS).astype(float)
    assert 0.93 <= coverage((of(tuple(counts)) for counts in drawn), truth.value) <= 0.97


def numbers(rng: np.random.Generator, n: int, spread: float) -> tuple[Floats, Floats]:
    predicted = rng.normal(size=n)
    return predicted, 0.1 + 0.9 * predicted + spread * rng.normal(size=n)


def sums(predicted: Floats, outcome: Floats) -> tuple[float, ...]:
    e, p, y = predicted - outcome, predicted, outcome
    columns = (e**2, e**4, y, y**2, p, p**2, p * y)
    return (*(float(column.sum()) for column in columns), float(len(e)))


@pytest.mark.parametrize(("patients", "spread"), [(40, 0.6), (100, 0.6), (100, 2.0), (400, 0.2)])
@pytest.mark.parametrize("name", ["mse", "rmse", "r2", "bias", "calibration_slope"])
def test_numbers_with_normal_errors_from_forty_patients(
    name: str, patients: int, spread: float
) -> None:
    """Bias of the seed's draws included; heavier tails get no interval (see `HEAVIEST`)."""
    rng = np.random.default_rng(20140710)
    truth = {
        "mse": 0.1**2 + 0.1**2 + spread**2,
        "rmse": (0.1**2 + 0.1**2 + spread**2) ** 0.5,
        "r2": 1 - (0.1**2 + 0.1**2 + spread**2) / (0.9**2 + spread**2),
        "bias": -0.1,
        "calibration_slope": 0.9,
    }
    of = named(REGRESSION, name).found
    found = [of(sums(*numbers(rng, patients, spread))) for _ in range(DRAWS)]
    assert 0.93 <= coverage(found, truth[name]) <= 0.97


@pytest.mark.parametrize("patients", [50, 200])
def test_absolute_errors_from_fifty_patients_even_if_the_tails_are_heavy(patients: int) -> None:
    rng = np.random.default_rng(20140710)
    truth = float(np.abs(rng.standard_t(5, 4_000_000)).mean())
    of = named(REGRESSION, "mae").found
    found = []
    for _ in range(DRAWS):
        errors = rng.standard_t(5, patients)
        found.append(of((float(np.abs(errors).sum()), float((errors**2).sum()), patients)))
    assert 0.925 <= coverage(found, truth) <= 0.97


@pytest.mark.parametrize(
    ("patients", "effect", "losing", "base"),
    [(100, 1.0, 0.3, 0.3), (200, 1.0, 0.3, 0.3), (400, 0.5, 0.3, 0.1), (150, 0.3, 0.2, 0.3)],
)
def test_concordance_brier_and_observed_risk_from_forty_events(
    patients: int, effect: float, losing: float, base: float
) -> None:
    """Exponential times, ended by loss at random or at 6; horizon 2, before which 38 have it."""
    rng = np.random.default_rng(20140710)
    truth = _truth(rng, effect, losing, base)
    found: dict[str, list[Found | None]] = {name: [] for name in truth}
    for _ in range(DRAWS // 2):
        for name, one in _followed(rng, patients, effect, losing, base).items():
            found[name].append(one)
    for name, value in truth.items():
        assert 0.93 <= coverage(found[name], value) <= 0.97, name


def _drawn(
    rng: np.random.Generator, n: int, effect: float, losing: float, base: float
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    rate = base * np.exp(effect * rng.normal(size=n))
    event, end = rng.exponential(1 / rate), np.minimum(rng.exponential(1 / losing, n), 6.0)
    return rate, np.minimum(event, end), event <= end


def _predicted(rate: Floats, base: float) -> Floats:
    """Survival at 2 by a model that is wrong in level and slope."""
    survival: Floats = np.exp(-0.8 * base * (rate / base) ** 0.8 * 2.0)
    return survival


def _truth(rng: np.random.Generator, effect: float, losing: float, base: float) -> dict[str, float]:
    many = c_index.concordance(*_drawn(rng, 200_000, effect, losing, base))
    rate = base * np.exp(effect * rng.normal(size=2_000_000))
    risk, survival = 1 - np.exp(-2.0 * rate), _predicted(rate, base)
    error = (1 - risk) * (1 - survival) ** 2 + risk * survival**2
    return {
        "concordance": many.concordant / many.pairs,
        "brier": float(error.mean()),
        "observed_risk": float(risk.mean()),
    }


def _followed(
    rng: np.random.Generator, n: int, effect: float, losing: float, base: float
) -> dict[str, Found | None]:
    rate, times, events = _drawn(rng, n, effect, losing, base)
    c = c_index.concordance(rate, times, events)
    error = brier(_predicted(rate, base), times, events, 2.0)
    risk = observed_risk(times, events, 2.0)
    pairs = (c.concordant, c.pairs, (c.variance or 0) * c.pairs**2, float(n))
    at = {
        name: ((one.value or 0) * n, (one.variance or 0) * n**2, float(n))
        for name, one in (("brier", error), ("observed_risk", risk))
    }
    return {
        "concordance": named(SURVIVAL, "concordance").found(pairs),
        **{name: named(AT_HORIZONS, name).found(some) for name, some in at.items()},
    }


@pytest.mark.parametrize("patients", [100, 400, 2000])
@pytest.mark.parametrize("wrong", [0.0, 0.05, 0.15])
def test_the_calibration_error_is_right_on_average_where_there_is_one(
    patients: int, wrong: float
) -> None:
    """In 8 bins the raw error of a perfect model is 0.09 at 100 patients; so it is 0.06."""
    rng = np.random.default_rng(20140710)
    raw, kept = [], []
    for _ in range(1000):
        scores = rng.uniform(wrong, 1 - wrong, patients)
        ill = rng.random(patients) < scores + wrong
        place = np.minimum((scores * 8).astype(int), 7)
        rows = [
            (float(n), float(ill[place == k].sum()), float(scores[place == k].sum()))
            for k, n in enumerate(np.bincount(place, minlength=8))
        ]
        raw.append(sum(abs(total - positives) for _, positives, total in rows) / patients)
        found = expected_error(tuple(value for row in rows for value in row))
        assert found is not None
        kept.append(found[0])
    assert abs(np.mean(kept) - wrong) < abs(np.mean(raw) - wrong) + 0.002
    if wrong and patients >= 400:
        assert np.mean(kept) == pytest.approx(wrong, abs=0.004)
