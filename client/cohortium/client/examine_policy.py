"""What a policy says against itself: rules that forbid every study, or that have no effect.

All are warnings: whatever a policy says wrong, it denies.
"""

from collections.abc import Iterator

from cohortium.client.config import AutoApprove, Policy, SiteConfig, SiteDir
from cohortium.client.finding import Finding
from cohortium.common.errors import CohortiumError


def examine_policy(config: SiteConfig, directory: SiteDir) -> Iterator[Finding]:
    """One warning for each key to think about, or one "ok"."""
    found = [
        *_forbids_all(config),
        *_open(config.policy),
        *_people(config),
        *_caps(config.policy, directory),
        *(finding for rule in config.auto_approve for finding in _rule(rule, config, directory)),
    ]
    yield from found
    if not found:
        yield Finding("policy", "ok", f"purposes {', '.join(config.policy.purposes)}")


def _warn(key: str, said: str, advice: str) -> Finding:
    return Finding(f"policy.{key}", "warning", said, advice)


def _forbids_all(config: SiteConfig) -> Iterator[Finding]:
    policy = config.policy
    if not policy.purposes:
        yield _warn(
            "purposes",
            "no purpose is allowed, so no study can run",
            "add Data Use Ontology codes to [policy] purposes in site.toml",
        )
    if not policy.models:
        yield _warn("models", "no model is allowed, so no study can run", "name models, or mlp")
    if "update" not in policy.may_leave:
        yield _warn(
            "may_leave",
            "updates may not leave, so no study can train here",
            'add "update" to [policy] may_leave unless that is meant',
        )
    if policy.require_secure_aggregation:
        yield _warn(
            "require_secure_aggregation",
            "every study is refused until updates are masked from the coordinator",
            "set it to false to take part before that",
        )
    begin, _, end = policy.hours.partition("-")
    if policy.hours and begin == end:
        yield _warn("hours", f'"{policy.hours}" is an empty range', 'write "" for any hour')


def _open(policy: Policy) -> Iterator[Finding]:
    if policy.allow_unprotected:
        yield _warn(
            "allow_unprotected",
            "studies without privacy are allowed",
            "set allow_unprotected = false unless all data here are public",
        )
    elif policy.allow_exact_counts:
        yield _warn(
            "allow_exact_counts",
            "has no effect: only studies without privacy send exact counts",
            "set allow_exact_counts = false, as allow_unprotected is",
        )
    if policy.minimum_cell == 0:
        yield _warn(
            "minimum_cell",
            "disclosure control of held-out results is off",
            "set minimum_cell = 10 unless all data here are public",
        )


def _people(config: SiteConfig) -> Iterator[Finding]:
    approvers = list(config.people.values()).count("approver")
    needed = config.policy.approvals_needed
    if config.people and approvers < needed:
        yield _warn(
            "approvals_needed",
            f"{needed} approvals are needed, and [people] has {approvers} approver(s)",
            "name more approvers in [people], or lower approvals_needed",
        )


def _caps(policy: Policy, directory: SiteDir) -> Iterator[Finding]:
    for name in directory.datasets():
        try:
            cap = directory.load_dataset(name).epsilon_cap
        except CohortiumError:
            continue  # the examination of the data says so
        if policy.max_epsilon_per_study > cap:
            yield _warn(
                "max_epsilon_per_study",
                f"{policy.max_epsilon_per_study:g} is more than dataset {name} has ever to give "
                f"({cap:g})",
                f"lower max_epsilon_per_study, best to a fraction of {cap:g}",
            )


def _rule(rule: AutoApprove, config: SiteConfig, directory: SiteDir) -> Iterator[Finding]:
    policy = config.policy
    purposes = sorted(set(rule.purposes) - set(policy.purposes))
    datasets = sorted(set(rule.datasets) - set(directory.datasets()))
    beyond = [
        (bool(purposes), f"purposes {', '.join(purposes)}"),
        (rule.max_epsilon > policy.max_epsilon_per_study, f"epsilon {rule.max_epsilon:g}"),
        (rule.max_rounds > policy.max_rounds, f"{rule.max_rounds} rounds"),
        (bool(datasets), f"datasets {', '.join(datasets)}, which are not registered"),
    ]
    said = [words for is_beyond, words in beyond if is_beyond]
    if said:
        yield Finding(
            f"auto_approve {rule.name}",
            "warning",
            f"covers what [policy] forbids: {'; '.join(said)}",
            "narrow the rule in site.toml to what [policy] allows: the policy wins",
        )
