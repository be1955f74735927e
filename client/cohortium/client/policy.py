"""The site's policy: every rule names the key of site.toml that decides it, and its line."""

import re
from datetime import datetime, time
from pathlib import Path

from cohortium.client.approvals import compared, leaves
from cohortium.client.config import AutoApprove, Policy
from cohortium.common import newton
from cohortium.common.errors import RefusedError
from cohortium.common.study import Study


def check(study: Study, policy: Policy, file: Path | None = None, site: str = "") -> None:
    """Raise RefusedError at the first rule that a study breaks.

    Args:
        file: site.toml, to name the line that set the rule.
        site: whose policy it is: rules about training say nothing where it only evaluates.
    """
    for key, explanation in _broken(study, policy, site):
        raise _refusal(key, explanation, file)


def check_cohort(patients: int, policy: Policy, file: Path | None = None) -> None:
    """Raise RefusedError for a cohort that is too small to hide in; the size itself is not said."""
    if patients < policy.minimum_patients:
        explanation = f"fewer than {policy.minimum_patients} patients are left for the study"
        raise _refusal("minimum_patients", explanation, file)


def check_hours(policy: Policy, now: datetime, file: Path | None = None) -> None:
    """Raise RefusedError outside the hours at which training may run.

    Args:
        now: the site's local time.
    """
    if policy.hours:
        begin, end = (time.fromisoformat(part) for part in policy.hours.split("-"))
        at = now.time()
        inside = begin <= at < end if begin <= end else at >= begin or at < end
        if not inside:
            error = _refusal("hours", f"training runs only at {policy.hours}", file)
            raise RefusedError("site.hours", error.explanation)


def automatic(study: Study, rules: tuple[AutoApprove, ...]) -> AutoApprove | None:
    """The first named rule that approves a study without a person, if any."""
    return next((rule for rule in rules if _covers(rule, study)), None)


def _broken(study: Study, policy: Policy, site: str) -> list[tuple[str, str]]:
    rounds, privacy = study.rounds_at_a_site, study.privacy
    trains = site not in study.sites.evaluate_only
    epsilon = _epsilon(study, trains)
    hidden = set(leaves(study, site)) - set(policy.may_leave)
    beside = compared(study, site)
    exact = study.strategy.weighting == "exact"
    sums = study.measures_first and privacy.mechanism == "none"
    rules = [
        (
            study.purpose.duo not in policy.purposes,
            "purposes",
            f'purpose "{study.purpose.duo}" is not among those allowed',
        ),
        (
            study.model.name not in policy.models,
            "models",
            f'model "{study.model.name}" is not among those allowed',
        ),
        (
            rounds > policy.max_rounds,
            "max_rounds",
            f"{rounds} rounds, {policy.max_rounds} are allowed",
        ),
        (
            trains and privacy.mechanism == "none" and not policy.allow_unprotected,
            "allow_unprotected",
            "the study has no differential privacy",
        ),
        (
            epsilon > policy.max_epsilon_per_study,
            "max_epsilon_per_study",
            f"epsilon {epsilon:g}, {policy.max_epsilon_per_study:g} is allowed",
        ),
        (bool(hidden), "may_leave", f"{', '.join(sorted(hidden))} may not leave"),
        (
            trains and exact and not policy.allow_exact_counts,
            "allow_exact_counts",
            "the study weighs sites by exact numbers of patients",
        ),
        (
            trains and newton.asked(study) and not policy.allow_exact_counts,
            "allow_exact_counts",
            "an information matrix (strategy newton) tells how many patients there are",
        ),
        (
            trains and sums and not policy.allow_exact_counts,
            "allow_exact_counts",
            "the study asks for exact sums over patients before the first round",
        ),
        (
            bool(beside) and not policy.allow_own_model,
            "allow_own_model",
            f"the study counts results of models without noise ({', '.join(beside)})",
        ),
        (
            study.explanation is not None and not policy.allow_explanations,
            "allow_explanations",
            "the study asks what the model goes by, as exact means over held-out patients",
        ),
        (
            trains and policy.require_secure_aggregation,
            "require_secure_aggregation",
            "updates are not yet masked from the coordinator",
        ),
    ]
    return [(key, explanation) for broken, key, explanation in rules if broken]


def _epsilon(study: Study, trains: bool) -> float:
    """What a study costs a patient at most: its training, and the noise in sums and results."""
    how = study.preprocessing.reduce
    training = (study.privacy.epsilon, how.epsilon if how else None) if trains else ()
    return sum(part or 0.0 for part in (*training, study.evaluation.noise_epsilon))


def _covers(rule: AutoApprove, study: Study) -> bool:
    return (
        study.purpose.duo in rule.purposes
        and study.data.dataset in rule.datasets
        and study.rounds_at_a_site <= rule.max_rounds
        and study.explanation is None
        and study.privacy.epsilon is not None
        and _epsilon(study, trains=True) <= rule.max_epsilon
    )


def _refusal(key: str, explanation: str, file: Path | None) -> RefusedError:
    return RefusedError(
        f"policy.{key}",
        f"{explanation} ({_where(key, file)}; the site operator can change it)",
    )


def _where(key: str, file: Path | None) -> str:
    """`site.toml line 14, [policy] KEY`, or that the default decides."""
    lines = file.read_text(encoding="utf-8").splitlines() if file is not None else []
    table = ""
    for number, line in enumerate(lines, start=1):
        if header := re.match(r"\s*(\[.*?\]+)", line):
            table = header[1]
        elif table == "[policy]" and re.match(rf"\s*{key}\s*=", line):
            return f"site.toml line {number}, [policy] {key}"
    return f"site.toml [policy] {key}"
