"""What a site's noisy releases cost: epsilon at a given delta, and the noise that keeps within it.

Two data sets are neighbours where one has one patient more (add or remove one). Mechanisms are
composed, their epsilons never added. `epsilon` is what is reported: exact for full batches
(Gaussian differential privacy), numerical privacy-loss distributions (PLD) for Poisson samples.
The `filter_*` functions are what a site enforces: a Renyi filter, which stays valid where later
mechanisms are chosen after seeing earlier results.
"""

import functools
import math
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from dp_accounting import dp_event
from dp_accounting.pld import privacy_loss_distribution
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gammaln, log_ndtr, logsumexp, ndtr, ndtri

from cohortium.common.document import GrownDocument
from cohortium.common.errors import UsageError
from cohortium.common.privacy import interchange
from cohortium.common.privacy.interchange import from_dp_json as from_dp_json  # `dp_json` back
from cohortium.common.privacy.ledger_row import Accountant
from cohortium.common.privacy.ledger_row import Purpose as Purpose

Sampler = Literal["poisson", "full-batch"]

# Renyi orders: whole numbers only, for which the sampled Gaussian has a finite sum.
ORDERS = tuple(range(2, 65)) + tuple(round(64 * 2 ** (i / 2)) for i in range(1, 17))
# Steps of a privacy loss, at least; wider ones are faster and err on the safe side.
PLD_INTERVAL = 1e-4
# Above it nobody is protected, a PLD takes seconds, and the looser Renyi bound says as much.
PLD_MAX_EPSILON = 100.0


class Mechanism(GrownDocument):
    """`steps` releases of a sum of vectors clipped to norm C, with noise of std noise_multiplier C.

    `model_dump()` and `document.parse` turn it into a JSON-able dict and back. poisson: each
    patient is in each step by an own coin of probability `sample_rate`. full-batch: all are in.
    purpose: what of a study it is spent on; it does not change what is spent.
    """

    later: ClassVar[frozenset[str]] = frozenset({"purpose"})

    sampler: Sampler
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    noise_multiplier: NonNegativeFloat
    steps: NonNegativeInt
    purpose: Purpose = "training"

    @model_validator(mode="after")
    def _full_batch_samples_all(self) -> Self:
        if self.sampler == "full-batch" and self.sample_rate != 1:
            raise ValueError("a full-batch mechanism has sample_rate = 1.0")
        return self

    def event(self) -> dp_event.DpEvent:
        """The same as dp-accounting's interchange record."""
        gaussian: dp_event.DpEvent = dp_event.GaussianDpEvent(self.noise_multiplier)
        if self.sample_rate < 1:
            gaussian = dp_event.PoissonSampledDpEvent(self.sample_rate, gaussian)
        return dp_event.SelfComposedDpEvent(gaussian, self.steps)


def dp_json(mechanism: Mechanism) -> dict[str, Any]:
    """The mechanism's interchange record as JSON; `from_dp_json` gives `event()` back."""
    return interchange.to_json(mechanism.event())


def epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """Epsilon of all mechanisms together at `delta`, never below the true one.

    Full batches only: exact, mu = sqrt(sum of steps / noise_multiplier^2) (Dong, Roth, Su 2022,
    Corollaries 2.13 and 3.3). Else PLD by dp-accounting (Doroshenko et al. 2022), or the Renyi
    bound where that fails or exceeds 100.

    Returns:
        0.0 for nothing spent, infinity for a release without noise.
    """
    if _without_noise(mechanisms):
        return math.inf
    sampled, mu = _merged(mechanisms)
    if not sampled:
        return _gaussian_epsilon(mu, delta)
    return _sampled_epsilon(sampled, mu, delta)


def accountant(mechanisms: Sequence[Mechanism], delta: float) -> Accountant:
    """Which program gives `epsilon` of these, and how it is set."""
    sampled, mu = ((), 0.0) if _without_noise(mechanisms) else _merged(mechanisms)
    if not sampled:
        return Accountant(name="Gaussian DP, closed form", version=version("cohortium"))
    bound = rdp_epsilon([*sampled, *_full_batch(mu)], delta)
    if bound > PLD_MAX_EPSILON:
        return Accountant(name="Renyi DP, upper bound", version=version("cohortium"))
    return Accountant(
        name="dp-accounting PLD",
        version=version("dp-accounting"),
        settings={"value_discretization_interval": repr(_interval(bound))},
    )


def rdp_epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """Renyi upper bound on `epsilon`, a tenth above it, at a fraction of the time.

    Conversion at the best whole order: Balle et al. 2020, Theorem 21.
    """
    if not any(mechanism.steps for mechanism in mechanisms):
        return 0.0
    spent = [filter_spent(mechanisms, order) for order in ORDERS]
    bounds = (rdp + _conversion(order, delta) for order, rdp in zip(ORDERS, spent, strict=True))
    return max(0.0, min(bounds))


def filter_order(cap_epsilon: float, delta: float) -> float:
    """The one Renyi order that a budget uses for life, chosen before anything is spent.

    The lowest at which a plain Gaussian gets 0.85 of what it gets at its best order: at higher
    ones the divergence of a sampled Gaussian with little noise explodes.

    Raises:
        UsageError: the cap is too small for any order.
    """
    reach = {order: filter_limit(cap_epsilon, delta, order) / order for order in ORDERS}
    best = max(reach.values())
    if best <= 0:
        raise UsageError(
            f"privacy budget: epsilon {cap_epsilon:g} at delta {delta:g} leaves room for no "
            "release at all; who sets the site's cap must raise it"
        )
    return float(next(order for order in ORDERS if reach[order] >= 0.85 * best))


def filter_limit(cap_epsilon: float, delta: float, order: float) -> float:
    """What `filter_spent` may reach at `order` for (cap_epsilon, delta) to hold.

    Renyi filter of Feldman & Zrnic 2021, Theorem 4.3, with the conversion of `rdp_epsilon`.
    """
    return cap_epsilon - _conversion(order, delta)


def filter_spent(mechanisms: Sequence[Mechanism], order: float) -> float:
    """Renyi divergence of `order`, a whole number from 2, of all mechanisms together: a plain sum.

    Sampled Gaussian: Mironov, Talwar, Zhang 2019, Section 3.3.
    """
    return math.fsum(
        m.steps * _step_rdp(m.sample_rate, m.noise_multiplier, round(order))
        for m in mechanisms
        if m.steps
    )


def cap_needed(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """The lifetime cap, to the next half percent, under which a fresh dataset can give all this."""
    cap = max(rdp_epsilon(mechanisms, delta), 1e-3)
    while not _fits(mechanisms, cap, delta):
        cap *= 1.005
    return cap


def _fits(mechanisms: Sequence[Mechanism], cap: float, delta: float) -> bool:
    try:
        order = filter_order(cap, delta)
    except UsageError:
        return False
    return filter_spent(mechanisms, order) <= filter_limit(cap, delta, order)


def noise_multiplier(
    target_epsilon: float, delta: float, sample_rate: float, steps: int, sampler: Sampler
) -> float:
    """The smallest noise multiplier found for which `epsilon` of the plan stays within target."""
    plan = Mechanism(sampler=sampler, sample_rate=sample_rate, noise_multiplier=0.0, steps=steps)
    return _noise_multiplier(plan, target_epsilon, delta)


def true_positive_rate(mechanisms: Sequence[Mechanism], false_positive_rate: float = 0.01) -> float:
    """Share of members that the best possible attacker finds at the given share of false alarms.

    inf over epsilon of exp(epsilon) FPR + delta(epsilon) (Dong, Roth, Su 2022, Proposition 2.12).
    Never below the true one; 1.0 where a PLD would take seconds, as then nobody is protected.
    """
    if _without_noise(mechanisms):
        return 1.0
    sampled, mu = _merged(mechanisms)
    if not sampled:
        return float(ndtr(ndtri(false_positive_rate) + mu))
    return _sampled_rate(sampled, mu, false_positive_rate)


def gaussian_mu(mechanisms: Sequence[Mechanism]) -> float | None:
    """mu of Gaussian differential privacy where it says all, for full batches; else None."""
    if _without_noise(mechanisms):
        return None
    sampled, mu = _merged(mechanisms)
    return None if sampled else mu


def in_words(mechanisms: Sequence[Mechanism], false_positive_rate: float = 0.01) -> str:
    """Epsilon for a committee: how many members an attacker finds who accepts false alarms."""
    found = true_positive_rate(mechanisms, false_positive_rate)
    percent = min(math.ceil(round(found * 1000, 6)) / 10, 100.0)  # at most: rounded up
    return (
        f"an attacker who accepts {false_positive_rate * 100:g}% false alarms finds a member in at "
        f"most {percent:.1f}% of cases"
    )


def _without_noise(mechanisms: Sequence[Mechanism]) -> bool:
    return any(m.steps and not m.noise_multiplier for m in mechanisms)


def _merged(mechanisms: Sequence[Mechanism]) -> tuple[tuple[Mechanism, ...], float]:
    """Sampled mechanisms, equal ones as one; and the Gaussian-DP mu of all full batches."""
    steps: Counter[tuple[float, float]] = Counter()
    for m in mechanisms:
        steps[m.sample_rate, m.noise_multiplier] += m.steps
    mu = math.sqrt(math.fsum(n / sigma**2 for (rate, sigma), n in steps.items() if rate == 1 and n))
    sampled = tuple(
        Mechanism(sampler="poisson", sample_rate=rate, noise_multiplier=sigma, steps=n)
        for (rate, sigma), n in sorted(steps.items())
        if rate < 1 and n
    )
    return sampled, mu


def _gaussian_delta(mu: float, eps: float) -> float:
    """Dong, Roth, Su 2022, Corollary 2.13."""
    return float(ndtr(mu / 2 - eps / mu) - math.exp(eps + log_ndtr(-mu / 2 - eps / mu)))


def _gaussian_epsilon(mu: float, delta: float) -> float:
    if mu == 0 or _gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    high = mu**2 / 2 - mu * float(ndtri(delta))  # where the first term alone is delta
    return float(brentq(lambda e: _gaussian_delta(mu, e) - delta, 0.0, max(high, 1e-9)))


@functools.lru_cache(maxsize=1024)
def _sampled_epsilon(
    sampled: tuple[Mechanism, ...], mu: float, delta: float, coarser: int = 1
) -> float:
    bound = rdp_epsilon([*sampled, *_full_batch(mu)], delta)
    if bound == 0 or bound > PLD_MAX_EPSILON:
        return bound
    try:
        loss = _loss(sampled, mu, _interval(bound) * coarser)
        return min(bound, float(loss.get_epsilon_for_delta(delta)))
    except (ArithmeticError, MemoryError, ValueError):
        return bound


@functools.lru_cache(maxsize=64)
def _sampled_rate(sampled: tuple[Mechanism, ...], mu: float, alarms: float) -> float:
    bound = rdp_epsilon([*sampled, *_full_batch(mu)], alarms / 1000)
    if bound > PLD_MAX_EPSILON:
        return 1.0
    try:
        loss = _loss(sampled, mu, _interval(bound))
    except (ArithmeticError, MemoryError, ValueError):
        return 1.0

    def rate(eps: float) -> float:  # convex in exp(eps)
        return math.exp(eps) * alarms + float(loss.get_delta_for_epsilon(eps))

    best = minimize_scalar(rate, bounds=(0, -math.log(alarms)), method="bounded")
    return min(1.0, float(best.fun))


def _interval(bound: float) -> float:
    """A ten-thousandth of epsilon or so, in powers of two so that steps are built once."""
    return PLD_INTERVAL * 2.0 ** min(3, max(0, math.floor(math.log2(1.5 * bound))))


def _loss(sampled: tuple[Mechanism, ...], mu: float, interval: float) -> Any:
    """The privacy-loss distribution of all together, in dp-accounting's form."""
    parts = [
        _step_loss(m.sample_rate, m.noise_multiplier, interval).self_compose(m.steps)
        for m in (*sampled, *_full_batch(mu))
    ]
    return functools.reduce(lambda one, other: one.compose(other), parts)


@functools.lru_cache(maxsize=16)
def _step_loss(sample_rate: float, sigma: float, interval: float) -> Any:
    return privacy_loss_distribution.from_gaussian_mechanism(
        sigma, sampling_prob=sample_rate, value_discretization_interval=interval
    )


def _full_batch(mu: float) -> list[Mechanism]:
    """The one full-batch release that costs as much as all."""
    if mu == 0:
        return []
    return [Mechanism(sampler="full-batch", sample_rate=1.0, noise_multiplier=1 / mu, steps=1)]


def _conversion(order: float, delta: float) -> float:
    """What an epsilon at `delta` is above the Renyi divergence of `order`."""
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


@functools.lru_cache(maxsize=65536)
def _step_rdp(sample_rate: float, sigma: float, order: int) -> float:
    if sigma == 0:
        return math.inf
    if sample_rate == 1:
        return order / (2 * sigma**2)
    k = np.arange(order + 1.0)
    terms = (
        _log_binomial(order, k)
        + (order - k) * math.log1p(-sample_rate)
        + k * math.log(sample_rate)
        + k * (k - 1) / (2 * sigma**2)
    )
    return max(0.0, float(logsumexp(terms))) / (order - 1)


def _log_binomial(n: int, k: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return result


@functools.lru_cache(maxsize=256)
def _noise_multiplier(plan: Mechanism, target: float, delta: float) -> float:
    if plan.sample_rate == 1:
        return _full_batch_noise(plan, target, delta)

    def spent(log_sigma: float, coarser: int = 1) -> float:
        mechanism = plan.model_copy(update={"noise_multiplier": math.exp(log_sigma)})
        return _sampled_epsilon((mechanism,), 0.0, delta, coarser)

    def excess(log_sigma: float) -> float:
        return spent(log_sigma, coarser=2 if target > 1 else 1) - target

    high = math.log(_rdp_noise(plan, target, delta))
    low = high - 0.1
    while excess(low) <= 0:
        low, high = low - 0.1, low
    found = float(brentq(excess, low, high, xtol=1e-4))
    while spent(found) > target:
        found += 1e-4
    return math.exp(found)


def _full_batch_noise(plan: Mechanism, target: float, delta: float) -> float:
    """mu that spends the target, by bisection on the exact curve; then sigma = sqrt(steps) / mu."""
    high = 1.0
    while _gaussian_delta(high, target) < delta:
        high *= 2
    mu = brentq(lambda m: _gaussian_delta(m, target) - delta, high * 1e-12, high, xtol=1e-15)
    sigma = math.sqrt(plan.steps) / float(mu)
    while _gaussian_epsilon(math.sqrt(plan.steps) / sigma, delta) > target:
        sigma *= 1 + 1e-9
    return sigma


def _rdp_noise(plan: Mechanism, target: float, delta: float) -> float:
    """A noise multiplier within target by the Renyi bound, within 1 % of the least."""

    def within(sigma: float) -> bool:
        mechanism = plan.model_copy(update={"noise_multiplier": sigma})
        return rdp_epsilon([mechanism], delta) <= target

    sigma = 1.0
    while not within(sigma):
        sigma *= 2
    while within(sigma / 1.01):
        sigma /= 1.01
    return sigma
