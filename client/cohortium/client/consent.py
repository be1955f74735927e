"""Whether this site takes part in a study: policy, budget, a person and the data, in that order."""

from importlib.util import find_spec

from cohortium.client import halt, policy, snapshot
from cohortium.client.budget import Plan
from cohortium.client.ledger_rows import RNG, clip_norm
from cohortium.client.site import Site
from cohortium.common.errors import RefusedError
from cohortium.common.messages import Consent
from cohortium.common.privacy.accounting import Mechanism, Purpose, accountant, epsilon
from cohortium.common.privacy.ledger_row import CrossCheck
from cohortium.common.privacy.plan import planned_at
from cohortium.common.study import Study


def consider(site: Site, study: Study) -> Consent:
    """This site's answer to an invitation.

    The data come last: before a person has approved, nothing that leaves depends on a patient, or
    invitations with one label rule after another could search a column. A study that ended without
    being completed may be proposed again: it goes on where it was, if approvals still hold.

    Raises:
        RefusedError: by which rule it takes no part.
        DataError: its table does not fit the study.
    """
    known = site.studies.receive(study, site.now_ms())
    if known.closed:
        raise RefusedError(f"study.{known.state}", known.note)
    _may_take_part(site, study)
    if known.state == "ended":
        site.studies.mark(study.digest, "waiting", f"{known.note}; proposed again")
    _approve_by_rule(site, study)
    approvals = site.approvals.of(study, site.name, lambda: site.facts(study), site.clock())
    if len(approvals) < site.policy.approvals_needed:
        return Consent(decision="waiting")
    cohort = None if study.measures_first else site.workshop.prepare(study)
    if cohort is not None:
        policy.check_cohort(cohort.patients, site.policy, site.directory.config)
    begin(site, study)
    return Consent(
        decision="approved",
        approvers=tuple(approval.person for approval in approvals),
        approved_at=approvals[0].at,
        patients=cohort.band if cohort else "",
    )


def begin(site: Site, study: Study) -> None:
    """The study may run: what it may still cost is set aside, so that no other can take it.

    Raises:
        RefusedError: it does not fit, or another program says that it costs something else.
    """
    plan = planned_at(study, site.name)
    checks = _cross_checked(site, study, plan) if plan else {}
    with site.database.transaction():
        site.studies.mark(study.digest, "approved", "")
        snapshot.record(site, study, site.actor)
        if not plan:
            return
        ledger = site.ledger(study)
        for part in ledger.reserve(study.digest, plan, site.now_ms(), checks):
            site.log.append(
                "privacy.reserved",
                actor=site.actor,
                study=study.digest,
                detail=_reserved(site, study, part, checks.get(part.purpose)),
            )


def _cross_checked(site: Site, study: Study, plan: Plan) -> dict[Purpose, CrossCheck]:
    """What a second program says of each part that is about to be set aside.

    Of Poisson samples that is Opacus, which only a training process has loaded.
    """
    from cohortium.common.privacy.cross_check import cross_check

    found: dict[Purpose, CrossCheck] = {}
    ledger = site.ledger(study)
    for part in ledger.missing(study.digest, plan):
        delta = ledger.delta(study)
        if part.sampler == "poisson":
            check = site.workshop.cross_check(study, part, delta)
        else:
            check = cross_check((part,), delta)
        if check is None:
            continue
        if not check.agrees:
            raise RefusedError(
                "privacy.cross_check",
                f"two programs disagree about the privacy of the study's {part.purpose}: "
                f"{epsilon((part,), delta):.3f}, and by {check.accountant.name} {check.epsilon}; "
                "whoever maintains Cohortium must look into it",
            )
        found[part.purpose] = check
    return found


def _reserved(
    site: Site, study: Study, part: Mechanism, check: CrossCheck | None
) -> dict[str, str]:
    """What the event of a reservation says."""
    ledger = site.ledger(study)
    dataset, delta = site.directory.load_dataset(study.data.dataset), ledger.delta(study)
    said = {} if check is None else {"cross_check": f"{check.accountant.name} {check.epsilon}"}
    return {
        "dataset": dataset.name,
        "kind": part.purpose,
        "epsilon": f"{epsilon((part,), delta):.6f}",
        "accountant": accountant((part,), delta).name,
        "cap": f"{dataset.epsilon_cap:g}",
        "delta": f"{delta:g}",
        "sampler": part.sampler,
        "sample_rate": repr(part.sample_rate),
        "noise_multiplier": repr(part.noise_multiplier),
        "clip_norm": repr(clip_norm(study, part)),
        "steps": str(part.steps),
        "unit": study.privacy.unit,
        "adjacency": "add-or-remove-one",
        "rng": RNG[part.purpose],
        **said,
    }


def _may_take_part(site: Site, study: Study) -> None:
    """Everything that site.toml, the roster and the budget can say before a person is asked."""
    policy.check(study, site.policy, site.directory.config, site.name)
    if study.explanation is not None and find_spec("captum") is None:
        raise RefusedError(
            "policy.packages",
            "explanations need a package that this site has not; the site operator runs "
            "`pip install 'cohortium[explain]'`",
        )
    if site.name not in study.sites.names:
        raise RefusedError("study.sites", "this site is not among the sites of the study")
    if study.data.dataset not in site.directory.datasets():
        raise RefusedError(
            "data.dataset",
            f'no dataset "{study.data.dataset}" is registered at this site; the site operator '
            f"runs `cohortium site data add {study.data.dataset} ...`",
        )
    if site.directory.is_withdrawn(study.data.dataset):
        raise halt.withdrawn(study.data.dataset)
    plan = planned_at(study, site.name)
    if plan and study.digest not in site.ledger(study).reserved():
        site.ledger(study).check_delta(study)
        site.ledger(study).check(site.ledger(study).left(study.digest, plan), study.digest)


def _approve_by_rule(site: Site, study: Study) -> None:
    """Where the operator wrote a named rule for such studies, it stands for a person."""
    rule = policy.automatic(study, site.directory.load_config().auto_approve)
    if rule is None:
        return
    person = f"rule: {rule.name}"
    holding = site.approvals.of(study, site.name, lambda: site.facts(study), site.clock())
    if person in {approval.person for approval in holding}:
        return
    with site.database.transaction():
        approval = site.sign(study, person)
        snapshot.record(site, study, site.actor)
        site.log.append(
            "study.approved",
            actor=site.actor,
            study=study.digest,
            obj=(approval.thing,),
            detail={"person": person, "meaning": approval.meaning, "setting": "auto_approve"},
        )
