"""Noise on whole numbers: as it was promised, and telling no more than is accounted for."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from scipy.special import log_ndtr, ndtr
from scipy.stats import chi2

from cohortium.common.privacy import accounting
from cohortium.common.privacy.count_noise import count_noise
from cohortium.common.privacy.discrete_gaussian import draws

N = 20_000


def seeded(seed: int) -> "random.Random":
    return random.Random(seed)


def pmf(variance: float) -> dict[int, float]:
    reach = math.ceil(12 * math.sqrt(variance)) + 3
    weights = {x: math.exp(-(x**2) / (2 * variance)) for x in range(-reach, reach + 1)}
    return {x: weight / math.fsum(weights.values()) for x, weight in weights.items()}


@pytest.mark.parametrize("variance", [Fraction(1, 5), Fraction(13, 10), Fraction(4801, 64)])
def test_draws_are_as_often_what_they_are_as_the_exact_distribution_says(
    variance: Fraction,
) -> None:
    found = draws(N, variance, seeded(1).randrange)
    expected = pmf(float(variance))
    spread = math.fsum(p * x * x for x, p in expected.items())
    kurtosis = math.fsum(p * x**4 for x, p in expected.items())
    assert abs(found.mean()) < 4 * math.sqrt(spread / N)
    assert abs((found**2).mean() - spread) < 4 * math.sqrt((kurtosis - spread**2) / N)
    often = {x: p for x, p in expected.items() if p * N >= 10}
    observed = [int((found == x).sum()) for x in often]
    seen = [*observed, N - sum(observed)]
    wanted = [*(p * N for p in often.values()), N * (1 - math.fsum(often.values()))]
    cells = [(o, w) for o, w in zip(seen, wanted, strict=True) if w > 1]
    statistic = math.fsum((o - w) ** 2 / w for o, w in cells)
    assert chi2.sf(statistic, len(cells) - 1) > 1e-3


def test_draws_of_the_system_differ_and_thousands_take_no_time() -> None:
    one, other = draws(3000, Fraction(56)), draws(3000, Fraction(56))
    assert (one != other).any()
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1
    assert one.std() == pytest.approx(math.sqrt(56), rel=0.1)


def of_sum(variance: float, families: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and probabilities of a sum of so many draws, by convolution."""
    one = np.array(list(pmf(variance).values()))
    whole = np.ones(1)
    for _ in range(families):
        whole = np.convolve(whole, one)
    return np.arange(len(whole)) - len(whole) // 2, whole


@pytest.mark.parametrize("families", [1, 2, 5])
@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(10, 1e-2), (10, 1e-5), (5, 1e-3), (2, 1e-7), (1, 1e-5), (0.5, 1e-2), (0.1, 1e-5)],
)
def test_the_noise_tells_at_no_epsilon_more_than_the_gaussian_that_is_accounted_for(
    epsilon: float, delta: float, families: int
) -> None:
    """So it does not in any composition either (Dong, Roth, Su 2022, section 3.1)."""
    noise = count_noise(epsilon, delta, families)
    assert accounting.epsilon([noise.mechanism], delta) <= epsilon
    mu = 1 / noise.mechanism.noise_multiplier
    variance = float(noise.variance)
    places, chances = of_sum(variance, families)
    loss = (2 * places + families) / (2 * variance)
    for at in (epsilon, *np.linspace(0, mu**2 / 2 + 6 * mu, 60)):
        more = loss > at
        ours = float((chances[more] * -np.expm1(at - loss[more])).sum())
        theirs = float(ndtr(mu / 2 - at / mu) - math.exp(at + log_ndtr(-mu / 2 - at / mu)))
        assert ours <= theirs * (1 + 1e-6) + 1e-12, at


def test_what_is_claimed_of_one_family_is_what_another_library_says() -> None:
    for epsilon, delta in ((1.0, 1e-5), (0.5, 1e-3)):
        noise = count_noise(epsilon, delta, 1)
        loss = privacy_loss_distribution.from_discrete_gaussian_mechanism(
            noise.std, value_discretization_interval=1e-4
        )
        assert loss.get_delta_for_epsilon(epsilon) <= delta * 1.001
        assert loss.get_delta_for_epsilon(epsilon) > delta * 0.5  # and no more noise than needed


def test_more_families_need_as_much_more_noise_as_patients_are_in_more_cells() -> None:
    one, four = count_noise(1.0, 1e-5, 1), count_noise(1.0, 1e-5, 4)
    assert one.mechanism == four.mechanism
    assert one.std == pytest.approx(3.73, abs=0.03)
    assert four.std == pytest.approx(7.46, abs=0.03)
