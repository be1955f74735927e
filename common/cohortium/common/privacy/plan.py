"""What a study's rounds will run, and hence cost: the same answer for who plans and who pays."""

import math
from collections import Counter

from cohortium.common.privacy.accounting import Mechanism, Sampler, noise_multiplier
from cohortium.common.study import Study

GRID = 1.1  # times the noise of the continuous curve (tests/common/test_discrete_gaussian.py)


def planned(study: Study, rounds: int = 1) -> Mechanism | None:
    """The mechanism of so many rounds of a study; None without privacy.

    The noise multiplier is the one at which all rounds that one site can take part in, in every
    track, together cost the study's epsilon.
    """
    privacy, training = study.privacy, study.training
    if privacy.mechanism == "none":
        return None
    assert privacy.epsilon is not None
    assert privacy.delta is not None
    sampler: Sampler = "full-batch" if training.batches == "full" else "poisson"
    rate = training.sample_rate or 1.0
    total = study.rounds_at_a_site * training.local_steps
    return Mechanism(
        sampler=sampler,
        sample_rate=rate,
        noise_multiplier=noise_multiplier(privacy.epsilon, privacy.delta, rate, total, sampler),
        steps=rounds * training.local_steps,
    )


def planned_in_all(study: Study) -> Mechanism | None:
    """The mechanism of all rounds that one site can take part in; None without privacy."""
    return planned(study, study.rounds_at_a_site)


def planned_evaluation(study: Study) -> Mechanism | None:
    """The mechanism of counts that leave with noise; None where small cells are hidden instead.

    The noise on one patient's part in them, as continuous noise (`discrete_gaussian`).
    """
    epsilon, delta = study.evaluation.noise_epsilon, study.privacy.delta
    if epsilon is None or delta is None:
        return None
    sigma = noise_multiplier(epsilon, delta, 1.0, 1, "full-batch")
    return Mechanism(sampler="full-batch", sample_rate=1.0, noise_multiplier=sigma, steps=1)


def noise_std(study: Study) -> float:
    """Standard deviation of the noise in each count; 0 where none is asked for.

    A patient is counted once in each table, so that all tables move by the root of their number.
    By zCDP, and hence in a ledger's filter, whole numbers are as private as continuous ones; at one
    epsilon their delta can be more, which `GRID` makes up for.
    """
    mechanism = planned_evaluation(study)
    if mechanism is None:
        return 0.0
    fairness = study.fairness
    tables = 1 + len(fairness.attributes) + len(fairness.intersections)
    return GRID * mechanism.noise_multiplier * math.sqrt(tables)


def whole_plan(study: Study, site: str) -> tuple[Mechanism, ...]:
    """All that a study costs a site: its training, where it trains, and noise in its results."""
    training = None if site in study.sites.evaluate_only else planned_in_all(study)
    steps = Counter[Mechanism]()
    for one in (training, planned_evaluation(study)):
        if one is not None:
            steps[one.model_copy(update={"steps": 0})] += one.steps
    return tuple(one.model_copy(update={"steps": n}) for one, n in steps.items())


def price_of_tracks(study: Study) -> tuple[float, float] | None:
    """The noise multiplier without and with leave-one-site-out; None where there is no price."""
    mechanism = planned(study)
    if mechanism is None or not study.left_out:
        return None
    evaluation = study.evaluation.model_copy(update={"leave_one_site_out": False})
    without = planned(study.model_copy(update={"evaluation": evaluation}))
    assert without is not None
    return without.noise_multiplier, mechanism.noise_multiplier


def in_words(price: tuple[float, float]) -> str:
    """What leaving sites out costs, for who approves or writes a study."""
    without, needed = price
    return (
        f"leaving sites out raises the noise multiplier from {without:.3f} to {needed:.3f}: the "
        "same epsilon covers the models of all tracks"
    )
