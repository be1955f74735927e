"""An attacker who chooses where sums are asked, and solves for what is hidden from the answers.

It knows how many patients there are, with and without the outcome, and how many are called rightly;
how many are called wrongly positive is hidden. Patients may be at any of many scores, and their
number at each be a fraction: what linear programming cannot exclude is open.
"""

from collections.abc import Callable, Mapping
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

from cohortium.common.metrics.calibration import (
    BOX,
    EVERYBODY,
    MAX_STEPS,
    START,
    Group,
    Point,
    Sums,
    probabilities,
    sums_at,
)
from cohortium.common.metrics.calibration_disclosure import UNDECIDED, Patients, answer

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ask = Callable[[Point], Sums | None]

CELL = 10
GRID = np.linspace(-13.8, 13.8, 500)
X, ILL = np.tile(GRID, 2), np.repeat([False, True], len(GRID))


def ward(seed: int, n: int, spread: float) -> tuple[Floats, Flags]:
    """Patients whose logits the attacker's grid holds: nothing is open for its coarseness."""
    rng = np.random.default_rng(seed)
    x = GRID[np.abs(GRID[:, None] - rng.normal(0, spread, n)).argmin(0)]
    return x, rng.random(n) < 1 / (1 + np.exp(-1.3 * x))


def alone(x: Floats, positive: Flags) -> Patients:
    return Patients(x, positive, {EVERYBODY: np.ones(len(x), bool)})


def protected(x: Floats, positive: Flags) -> Ask:
    return lambda point: answer(alone(x, positive), {EVERYBODY: point}, CELL).get(EVERYBODY)


def bare(x: Floats, positive: Flags) -> Ask:
    return lambda point: sums_at(x, positive, point)


def open_interval(ask: Ask, points: list[Point], facts: Floats, goal: Flags) -> tuple[float, float]:
    """The least and the largest number of patients in `goal` that all answers allow.

    facts: (patients, with the outcome, rightly called at 0) as they are shown.
    """
    rows, low, high = [], [], []
    for point in points:
        said = ask(point)
        if said is None:
            continue
        p = probabilities(X, point)
        v = p * (1 - p)
        rows += [ILL - p, (ILL - p) * X, v, v * X, v * X * X]
        slack = np.sqrt(12 * said.rounding) / 2 + 1e-6
        values = np.array([*said.gradient, *said.information])
        low.append(values - slack)
        high.append(values + slack)
    bounds = np.concatenate([np.concatenate(high), -np.concatenate(low)])
    matrix = np.array(rows)
    shown = np.array([np.ones(len(X)), ILL, (X > 0) == ILL], float)
    ends = []
    for sign in (1.0, -1.0):
        solved = linprog(
            sign * goal, np.vstack([matrix, -matrix]), bounds, shown, facts, method="highs"
        )
        assert solved.status == 0, solved.message
        ends.append(sign * solved.fun)
    return ends[0], ends[1]


def known(x: Floats, positive: Flags) -> Floats:
    return np.array([len(x), positive.sum(), ((x > 0) == positive).sum()], float)


def around(middle: float, slope: float, apart: float) -> list[Point]:
    """As many points as a site answers, all but the first as close to a threshold as chosen."""
    shifts = (np.arange(MAX_STEPS - 1) - (MAX_STEPS - 2) / 2) * apart / slope
    return [START, *(Point(intercept=float(-slope * (middle + s)), slope=slope) for s in shifts)]


FALSELY_CALLED = (X > 0) & ~ILL


@pytest.mark.parametrize("n", [60, 200])
@pytest.mark.parametrize("spread", [0.5, 1.5])
def test_where_nothing_protects_a_steep_slope_tells_the_hidden_count(n: int, spread: float) -> None:
    x, positive = ward(n, n, spread)
    steep = [Point(intercept=0.0, slope=1000.0)]
    low, high = open_interval(bare(x, positive), steep, known(x, positive), FALSELY_CALLED)
    truth = ((x > 0) & ~positive).sum()
    assert truth - 0.1 < low <= high < truth + 0.1


@pytest.mark.parametrize("slope", [0.01, 1.0, 3.0, BOX[1][1]])
@pytest.mark.parametrize("n", [40, 120])
def test_no_choice_of_points_tells_a_hidden_count(n: int, slope: float) -> None:
    for seed, spread in enumerate((0.4, 1.0, 2.0)):
        x, positive = ward(seed, n, spread)
        if answer(alone(x, positive), {EVERYBODY: START}, CELL) == {}:
            continue
        points = around(0.0, slope, 1.0)
        low, high = open_interval(
            protected(x, positive), points, known(x, positive), FALSELY_CALLED
        )
        truth = ((x > 0) & ~positive).sum()
        assert low - 1e-6 <= truth <= high + 1e-6
        assert high - low >= CELL / 4


# ------------------------------------------------------------------ one patient's score


def highest_score(ask: Ask, patients: int) -> float | None:
    """Bisect for the score above which nobody is; None where answers do not say."""
    low, high = -14.0, 14.0
    for _ in range(20):
        middle = (low + high) / 2
        said = ask(Point(intercept=-1e4 * middle, slope=1e4))
        if said is None:
            return None
        ill_less_called = said.gradient[0]
        low, high = (middle, high) if ill_less_called < patients - 0.5 else (low, middle)
    return low


def test_bisection_finds_a_patients_score_where_nothing_protects_and_no_score_else() -> None:
    x, positive = ward(7, 120, 1.5)
    assert highest_score(bare(x, positive), positive.sum()) == pytest.approx(x.max(), abs=1e-3)
    assert highest_score(protected(x, positive), positive.sum()) is None


def test_no_choice_of_points_tells_where_the_highest_score_is() -> None:
    x, positive = ward(7, 120, 1.5)
    top = float(x.max())
    for slope in (1.0, 3.0):
        points = around(top - 1, slope, 1.0)
        facts = known(x, positive)
        fewest, _ = open_interval(protected(x, positive), points, facts, top - 1.0 < X)
        _, most = open_interval(protected(x, positive), points, facts, top + 1.0 < X)
        assert fewest < 0.5  # it may be nobody's
        assert most > 0.5  # or somebody's may be higher


# ------------------------------------------------------------------ totals minus known groups


def members(columns: Mapping[str, NDArray[np.int64]]) -> dict[Group, Flags]:
    """Levels of each column and of its crossing with the first one, and everybody."""
    size = len(next(iter(columns.values())))
    found: dict[Group, Flags] = {EVERYBODY: np.ones(size, bool)}
    for name, levels in columns.items():
        found |= {(name, str(k)): levels == k for k in np.unique(levels)}
    first, second = list(columns.items())[:2]
    for a in np.unique(first[1]):
        for b in np.unique(second[1]):
            both = (first[1] == a) & (second[1] == b)
            found[f"{first[0]} x {second[0]}", f"{a} x {b}"] = both
    return found


def undecided(x: Floats, point: Point) -> float:
    p = probabilities(x, point)
    return float((p * (1 - p)).sum())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(60, 400),
    levels=st.tuples(st.integers(2, 3), st.integers(2, 4)),
    slope=st.sampled_from([0.5, 1.0, 3.0, 10.0]),
)
def test_no_total_minus_the_groups_within_it_is_too_sure(
    seed: int, n: int, levels: tuple[int, int], slope: float
) -> None:
    rng = np.random.default_rng(seed)
    x, positive = ward(seed, n, 1.5)
    skewed = [rng.choice(k, n, p=rng.dirichlet(np.ones(k))) for k in levels]
    groups = members({"sex": skewed[0], "age": skewed[1]})
    point = Point(intercept=0.0, slope=slope)
    patients = Patients(x, positive, groups)
    together = answer(patients, dict.fromkeys(groups, point), CELL)
    one_by_one = {
        g: s for group in groups for g, s in answer(patients, {group: point}, CELL).items()
    }
    assert one_by_one == together
    for whole in together:
        for attribute in {name for name, _ in together}:
            inside = [g for g in together if g[0] == attribute and g != whole]
            inside = [g for g in inside if not (groups[g] & ~groups[whole]).any()]
            for parts in chain.from_iterable(
                combinations(inside, k) for k in range(len(inside) + 1)
            ):
                rest = groups[whole].copy()
                for part in parts:
                    rest &= ~groups[part]
                assert not rest.any() or undecided(x[rest], point) >= CELL * UNDECIDED - 1e-3


def test_a_group_that_is_not_answered_does_not_follow_from_the_other() -> None:
    x, positive = ward(1, 200, 1.0)
    few = np.arange(200) < 12
    groups: dict[Group, Flags] = {
        EVERYBODY: np.ones(200, bool),
        ("sex", "female"): few,
        ("sex", "male"): ~few,
    }
    found = answer(Patients(x, positive, groups), dict.fromkeys(groups, START), CELL)
    assert set(found) == {EVERYBODY}
    assert set(answer(Patients(x, positive, groups), dict.fromkeys(groups, START), 0)) == set(
        groups
    )


def test_a_saturated_model_is_not_asked_by_a_slope_that_hides_it() -> None:
    """Logits of +-13 with slope 0.01 look undecided, and their sum counts who is above."""
    x = np.where(np.arange(200) < 7, 13.0, -13.0)
    flat = Point(intercept=0.0, slope=0.01)
    assert undecided(x, flat) > CELL
    assert answer(alone(x, x > 0), {EVERYBODY: flat}, CELL) == {}
