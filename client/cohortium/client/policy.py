"""The site's policy: every rule names the key of site.toml that decides it."""

from cohortium.client.config import Policy
from cohortium.common.errors import RefusedError
from cohortium.common.study import Study


def check(study: Study, policy: Policy) -> None:
    """Raise RefusedError at the first rule of site.toml that a study breaks."""
    if study.purpose.duo not in policy.purposes:
        _refuse("purposes", f'purpose "{study.purpose.duo}" is not among those allowed')
    if study.model.name not in policy.models:
        _refuse("models", f'model "{study.model.name}" is not among those allowed')
    if study.training.rounds > policy.max_rounds:
        _refuse("max_rounds", f"{study.training.rounds} rounds, {policy.max_rounds} are allowed")
    if study.privacy.mechanism == "none":
        if not policy.allow_unprotected:
            _refuse("allow_unprotected", "the study has no differential privacy")
    elif study.privacy.epsilon is not None and study.privacy.epsilon > policy.max_epsilon_per_study:
        _refuse(
            "max_epsilon_per_study",
            f"epsilon {study.privacy.epsilon:g}, {policy.max_epsilon_per_study:g} is allowed",
        )
    if not policy.allow_exact_counts:
        if study.strategy.weighting == "exact":
            _refuse("allow_exact_counts", "the study weighs sites by exact numbers of patients")
        if study.preprocessing.scaling == "federated-standard":
            _refuse("allow_exact_counts", "federated-standard scaling sends exact sums and counts")


def check_cohort(patients: int, policy: Policy) -> None:
    """Raise RefusedError for a cohort that is too small to hide in; the size itself is not said."""
    if patients < policy.minimum_patients:
        _refuse(
            "minimum_patients",
            f"fewer than {policy.minimum_patients} patients are left for training",
        )


def _refuse(key: str, explanation: str) -> None:
    raise RefusedError(
        f"policy.{key}",
        f"{explanation} (site.toml [policy] {key}; the site operator can change it)",
    )
