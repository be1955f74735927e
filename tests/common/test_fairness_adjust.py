"""Adjusted p values against other ways to compute them."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from cohortium.common.fairness.adjust import benjamini_hochberg, holm

CHANCES = st.floats(0, 1, allow_subnormal=False)


@given(st.lists(CHANCES | st.sampled_from((0.0, 0.01, 0.5, 1.0)), min_size=1, max_size=30))
def test_false_discoveries_are_adjusted_as_scipy_does(p: list[float]) -> None:
    assert benjamini_hochberg(p) == pytest.approx(false_discovery_control(p, method="bh"))


@given(st.lists(CHANCES | st.sampled_from((0.0, 0.01, 0.5, 1.0)), min_size=1, max_size=8))
def test_holm_is_the_closed_test_of_all_intersections_by_bonferroni(p: list[float]) -> None:
    """Holm's adjusted p is the largest Bonferroni p of any set of hypotheses that holds it."""
    sets = [s for size in range(1, len(p) + 1) for s in combinations(range(len(p)), size)]
    for place, found in enumerate(holm(p)):
        together = [min(1.0, len(s) * min(p[i] for i in s)) for s in sets if place in s]
        assert found == pytest.approx(max(together))


def test_nothing_to_adjust_is_nothing() -> None:
    assert holm([]) == benjamini_hochberg([]) == ()
