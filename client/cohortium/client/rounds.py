"""Answering the coordinator: the one entry to a site, where everything is checked and refused.

request -> verify signature, addressee -> stored reply? -> approval, policy -> act
        -> egress -> ledger row, reply and events durable in one transaction -> sign -> reply
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from cohortium.client import egress, halt, policy
from cohortium.client.replies import Replies, Reply
from cohortium.client.site import Site
from cohortium.common.audit.events import Thing
from cohortium.common.document import Document, one_line
from cohortium.common.envelope import Header, seal, unseal
from cohortium.common.errors import CohortiumError, DataError, ProtocolError, RefusedError
from cohortium.common.messages import (
    EMPTY,
    MAX_LINE,
    Close,
    Closed,
    Consent,
    Evaluate,
    Evaluated,
    Invite,
    Measure,
    Measured,
    Refusal,
    Spent,
    Train,
    Update,
    Vector,
    kind_of,
    unpack,
)
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.plan import planned
from cohortium.common.study import Study

NOBODY = Header(kind="none", study="", round=0, message_id="", sender="", recipient="", sent_ms=0)


@dataclass(frozen=True, eq=False)
class Request:
    """A verified request and the site that answers it."""

    site: Site
    header: Header
    body: memoryview


@dataclass(frozen=True, eq=False)
class Answer:
    """What a handler made: the message, its vector, and what that cost the dataset."""

    message: Document
    study: Study | None
    vector: Vector = field(default_factory=lambda: EMPTY)
    parameters: int = 0
    spent: Mechanism | None = None
    stored: bool = True


def answer(raw: bytes, site: Site) -> bytes:
    """One signed request in, one signed reply out. Never raises; a refusal is a reply too."""
    header = NOBODY
    try:
        header, body = _verify(raw, site)
        reply = _reply(Request(site, header, body))
    except Exception as error:
        reply = _refuse(site, header, error)
    return seal(_reply_header(header, reply.kind, site), reply.body, site.key)


def _verify(raw: bytes, site: Site) -> tuple[Header, memoryview]:
    header, body = unseal(raw, site.coordinator_key)
    if header.recipient != site.name or header.sender != site.config.coordinator.name:
        raise ProtocolError("the request is not from our coordinator to this site")
    return header, body


def _reply(request: Request) -> Reply:
    handler = HANDLERS.get(request.header.kind)
    if handler is None:
        raise ProtocolError("this site knows no such message")
    replies = Replies(request.site.database)
    stored = replies.find(request.header, request.body)
    if stored is not None:
        _allowed(request)  # what was withdrawn since is not sent again either
        return stored
    return _commit(request, replies, handler(request))


def _commit(request: Request, replies: Replies, made: Answer) -> Reply:
    """Pay, keep and record in one transaction; only then may the reply leave."""
    site, header = request.site, request.header
    body = egress.release(made.message, made.vector, made.study, made.parameters)
    reply = Reply(kind_of(made.message), body)
    if not made.stored:
        return reply
    site.gate.admit(header.study, site.now_ms())
    with site.database.transaction():
        if made.spent is not None and made.study is not None:
            _spend(request, made.study, made.spent, made.message)
        replies.store(header, request.body, reply)
        _record(request, reply)
    return reply


def _spend(request: Request, study: Study, mechanism: Mechanism, message: Document) -> None:
    site, header = request.site, request.header
    row = site.ledger(study).spend(header.study, header.round, mechanism, site.now_ms())
    assert isinstance(message, Update)
    assert message.spent is not None
    site.log.append(
        "privacy.spent",
        actor=site.actor,
        study=header.study,
        round=header.round,
        detail={
            "dataset": study.data.dataset,
            "row": str(row),
            "epsilon": f"{message.spent.epsilon:.6f}",
            "epsilon_after": f"{message.spent.lifetime_epsilon:.6f}",
            "cap": f"{message.spent.cap_epsilon:g}",
            "delta": f"{message.spent.cap_delta:g}",
            "sampler": mechanism.sampler,
            "sample_rate": repr(mechanism.sample_rate),
            "noise_multiplier": repr(mechanism.noise_multiplier),
            "clip_norm": repr(study.privacy.clip_norm),
            "steps": str(mechanism.steps),
            "unit": study.privacy.unit,
            "adjacency": "add-or-remove-one",
            "rng": "AES-256-CTR, os.urandom keys",
        },
    )


def _record(request: Request, reply: Reply) -> None:
    site, header = request.site, request.header
    if reply.kind not in ("update", "evaluated"):
        return
    digest = f"sha256:{hashlib.sha256(reply.body).hexdigest()}"
    site.log.append(
        "round.update.sent" if reply.kind == "update" else "evaluation.completed",
        actor=site.actor,
        study=header.study,
        round=header.round,
        obj=(Thing(t=reply.kind, h=digest, bytes=len(reply.body)),),
    )


def _invite(request: Request) -> Answer:
    """Consider a study: it may run when policy, budget, a person and the data all say yes.

    The data come last: before a person has approved, nothing that leaves depends on a patient, or
    invitations with one label rule after another could search a column.
    """
    site = request.site
    message, _ = unpack(request.body, Invite)
    study = message.study
    if study.digest != request.header.study:
        raise ProtocolError("the invitation's study is not the one it is signed for")
    known = site.studies.receive(study, site.now_ms())
    if known.state in ("rejected", "stopped", "ended"):
        raise RefusedError(f"study.{known.state}", known.note)
    _may_take_part(site, study)
    _approve_by_rule(site, study)
    approvals = site.approvals.of(study, site.name, lambda: site.facts(study), site.clock())
    if len(approvals) < site.policy.approvals_needed:
        return Answer(Consent(decision="waiting"), study, stored=False)
    standard = study.preprocessing.scaling == "federated-standard"
    cohort = None if standard else site.workshop.prepare(study)
    if cohort is not None:
        policy.check_cohort(cohort.patients, site.policy, site.directory.config)
    _begin(site, study)
    return Answer(
        Consent(
            decision="approved",
            approvers=tuple(approval.person for approval in approvals),
            approved_at=approvals[0].at,
            patients=cohort.band if cohort else "",
        ),
        study,
        stored=False,
    )


def _begin(site: Site, study: Study) -> None:
    """The study may run: its whole cost is set aside, so that no other study can take it."""
    plan = planned(study, study.training.rounds)
    with site.database.transaction():
        site.studies.mark(study.digest, "approved", "")
        if plan is not None and site.ledger(study).reserve(study.digest, plan, site.now_ms()):
            site.log.append(
                "privacy.reserved",
                actor=site.actor,
                study=study.digest,
                detail={
                    "dataset": study.data.dataset,
                    "sampler": plan.sampler,
                    "noise_multiplier": repr(plan.noise_multiplier),
                    "steps": str(plan.steps),
                },
            )


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
        site.sign(study, person)
        site.log.append(
            "study.approved",
            actor=site.actor,
            study=study.digest,
            detail={"person": person, "setting": "auto_approve"},
        )


def _may_take_part(site: Site, study: Study) -> None:
    """Everything that site.toml, the roster and the budget can say before a person is asked."""
    policy.check(study, site.policy, site.directory.config)
    if site.name not in study.sites.names:
        raise RefusedError("study.sites", "this site is not among the sites of the study")
    if study.data.dataset not in site.directory.datasets():
        raise RefusedError(
            "data.dataset",
            f'no dataset "{study.data.dataset}" is registered at this site; the site operator '
            f"runs `cohortium site data add {study.data.dataset} ...`",
        )
    plan = planned(study, study.training.rounds)
    if plan is not None and study.digest not in site.ledger(study).reserved():
        site.ledger(study).check_delta(study)
        site.ledger(study).check(plan, study.digest)


def _approved(request: Request) -> Study:
    """The study that a request belongs to, if it may run here now."""
    study = _allowed(request)
    request.site.approved(study)
    if request.header.round > study.training.rounds:
        raise RefusedError(
            "study.rounds",
            f"{study.training.rounds} rounds were approved, not {request.header.round}",
        )
    return study


def _allowed(request: Request) -> Study:
    """The study that a request belongs to, unless people or policy have said no since."""
    site, header = request.site, request.header
    if (refusal := halt.refusal(site, header.study)) is not None:
        raise refusal
    known = site.studies.by_digest(header.study)
    if known.state != "approved":
        why = known.note or "nobody at this site has approved it"
        raise RefusedError(f"study.{known.state}", why)
    policy.check(known.study, site.policy, site.directory.config)
    return known.study


def _measure(request: Request) -> Answer:
    site = request.site
    unpack(request.body, Measure)
    study = _approved(request)
    if study.preprocessing.scaling != "federated-standard":
        raise RefusedError("study.scaling", "the study's scaling needs no statistics")
    statistics = site.workshop.measure(study)
    policy.check_cohort(statistics.count, site.policy, site.directory.config)
    return Answer(Measured(statistics=statistics), study)


def _train(request: Request) -> Answer:
    site, header = request.site, request.header
    message, start = unpack(request.body, Train)
    study = _approved(request)
    if header.round < 1:
        raise ProtocolError("rounds count from 1")
    policy.check_hours(site.policy, site.clock().astimezone(), site.directory.config)
    cohort = site.workshop.prepare(study, message.statistics)
    policy.check_cohort(cohort.patients, site.policy, site.directory.config)
    if (plan := planned(study)) is not None:
        if study.digest not in site.ledger(study).reserved():
            _begin(site, study)  # nothing trains on privacy that is not set aside
        site.ledger(study).check(plan, study.digest)
    update = site.workshop.train(study, message.statistics, start, header.round)
    return Answer(
        Update(weight=cohort.weight, spent=_spent(site, study, update.mechanism)),
        study,
        update.delta,
        len(start),
        update.mechanism,
    )


def _spent(site: Site, study: Study, mechanism: Mechanism | None) -> Spent | None:
    return None if mechanism is None else site.ledger(study).spent(study, mechanism)


def _evaluate(request: Request) -> Answer:
    site = request.site
    message, model = unpack(request.body, Evaluate)
    study = _approved(request)
    cohort = site.workshop.prepare(study, message.statistics)
    policy.check_cohort(cohort.patients, site.policy, site.directory.config)
    minimum = site.policy.minimum_cell
    evaluation = site.workshop.evaluate(study, message.statistics, model, minimum)
    return Answer(Evaluated(evaluation=evaluation), study)


def _close(request: Request) -> Answer:
    site = request.site
    message, _ = unpack(request.body, Close)
    known = site.studies.by_digest(request.header.study)
    if known.state in ("waiting", "approved"):
        with site.database.transaction():
            site.studies.mark(known.digest, "ended", message.outcome)
            site.release(known.digest)
            site.log.append(
                "run.completed" if message.outcome == "completed" else "run.stopped",
                actor=site.actor,
                study=known.digest,
            )
    site.workshop.close(known.digest)
    return Answer(Closed(), known.study, stored=False)


HANDLERS: dict[str, Callable[[Request], Answer]] = {
    "invite": _invite,
    "measure": _measure,
    "train": _train,
    "evaluate": _evaluate,
    "close": _close,
}


def _refuse(site: Site, header: Header, error: Exception) -> Reply:
    """Record a refusal and say as much of it as a stranger may know."""
    correlation_id = site.correlate(error)
    rule, explanation = _public(error)
    try:
        site.log.append(
            "privacy.cap.hit" if rule == "privacy.cap" else "round.refused",
            actor=site.actor,
            outcome="denied" if isinstance(error, CohortiumError) else "failure",
            study=header.study or None,
            round=header.round,
            reason=rule,
            detail={"kind": header.kind, "correlation": correlation_id},
        )
    except CohortiumError as disk:
        site.correlate(disk)
    refusal = Refusal(
        rule=rule, explanation=one_line(explanation, MAX_LINE), correlation_id=correlation_id
    )
    return Reply("refusal", egress.release(refusal, EMPTY, None, 0))


def _public(error: Exception) -> tuple[str, str]:
    if isinstance(error, RefusedError):
        return error.rule, error.explanation
    if isinstance(error, DataError):
        return (
            "data.unfit",
            "the site's data does not fit the study; its operator finds the reason in its log",
        )
    if isinstance(error, ProtocolError):
        return "protocol", str(error)
    if isinstance(error, CohortiumError):
        return (
            "site.cannot",
            "the site cannot do this now; its operator finds the reason in its log",
        )
    return "site.error", "an unexpected error at the site; its operator finds it in the log"


def _reply_header(request: Header, kind: str, site: Site) -> Header:
    return Header(
        kind=kind,
        study=request.study,
        round=request.round,
        message_id=request.message_id,
        sender=site.name,
        recipient=site.config.coordinator.name,
        sent_ms=site.now_ms(),
    )
