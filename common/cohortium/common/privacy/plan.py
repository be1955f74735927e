"""What a study's rounds will run, and hence cost: the same answer for who plans and who pays."""

from cohortium.common.privacy.accounting import Mechanism, Sampler, noise_multiplier
from cohortium.common.privacy.count_noise import CountNoise, count_noise
from cohortium.common.study import Study


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


def planned_noise(study: Study) -> CountNoise | None:
    """The noise in the counts of the last evaluation; None where the study wants none.

    Families of cells: all patients, each attribute, each declared intersection.
    """
    if study.evaluation.noise_epsilon is None:
        return None
    assert study.privacy.delta is not None
    families = 1 + len(study.fairness.attributes) + len(study.fairness.intersections)
    return count_noise(study.evaluation.noise_epsilon, study.privacy.delta, families)


def planned_reduction(study: Study) -> Mechanism | None:
    """The sums for `preprocessing.reduce`; None where they cost nothing."""
    how = study.preprocessing.reduce
    if how is None or how.epsilon is None:
        return None
    assert study.privacy.delta is not None
    noise = noise_multiplier(how.epsilon, study.privacy.delta, 1.0, 1, "full-batch")
    return Mechanism(
        sampler="full-batch",
        sample_rate=1.0,
        noise_multiplier=noise,
        steps=1,
        purpose="measurement",
    )


def planned_beside(study: Study) -> tuple[Mechanism, ...]:
    """What a study costs beside training, at a site that trains."""
    noise, reduction = planned_noise(study), planned_reduction(study)
    return tuple(m for m in (reduction, noise.mechanism if noise else None) if m is not None)


def planned_at(study: Study, site: str) -> tuple[Mechanism, ...]:
    """All that a study costs the patients of a site: one mechanism for each purpose, if any.

    A site that only evaluates pays for no training.
    """
    only = site in study.sites.evaluate_only
    training = None if only else planned_in_all(study)
    beside = [m for m in planned_beside(study) if not only or m.purpose == "evaluation"]
    return tuple(mechanism for mechanism in (training, *beside) if mechanism is not None)


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
