"""What a study's rounds will run, and hence cost: the same answer for who plans and who pays."""

from cohortium.common.privacy.accounting import Mechanism, Sampler, noise_multiplier
from cohortium.common.study import Study


def planned(study: Study, rounds: int = 1) -> Mechanism | None:
    """The mechanism of so many rounds of a study; None without privacy.

    The noise multiplier is the one at which all of the study's rounds together cost its epsilon.
    """
    privacy, training = study.privacy, study.training
    if privacy.mechanism == "none":
        return None
    assert privacy.epsilon is not None
    assert privacy.delta is not None
    sampler: Sampler = "full-batch" if training.batches == "full" else "poisson"
    rate = training.sample_rate or 1.0
    total = training.rounds * training.local_steps
    return Mechanism(
        sampler=sampler,
        sample_rate=rate,
        noise_multiplier=noise_multiplier(privacy.epsilon, privacy.delta, rate, total, sampler),
        steps=rounds * training.local_steps,
    )
