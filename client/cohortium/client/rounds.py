"""Answering the coordinator: the one entry to a site, where everything is checked and refused.

request -> verify signature, addressee -> its study's turn -> stored reply? -> approval, policy
        -> act -> egress -> ledger row, reply and events durable in one transaction
        -> mark of what is durable -> sign -> reply

A kill before the transaction's end has spent nothing and is asked again; a kill after it has spent,
and what is asked again is the stored reply. Nothing leaves that the mark does not know.
"""

from collections.abc import Callable

from cohortium.client import (
    calibration,
    consent,
    egress,
    final_model,
    halt,
    held,
    measuring,
    policy,
    recording,
    returned,
    staying,
    witness,
)
from cohortium.client.answering import Answer, Request
from cohortium.client.ledger_rows import Spending, clip_norm, clipping
from cohortium.client.refusal import refuse
from cohortium.client.replies import Replies, Reply
from cohortium.client.site import Site
from cohortium.common.envelope import Header, seal, unseal
from cohortium.common.errors import ProtocolError, RefusedError
from cohortium.common.messages import (
    Calibrate,
    Close,
    Closed,
    Evaluate,
    Evaluated,
    Held,
    Hold,
    Invite,
    Measure,
    Measured,
    Train,
    Update,
    Validate,
    Validated,
    kind_of,
    unpack,
)
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.plan import planned, planned_at, planned_noise, planned_reduction
from cohortium.common.study import Study
from cohortium.common.tracks import Track

NOBODY = Header(kind="none", study="", round=0, message_id="", sender="", recipient="", sent_ms=0)


def answer(raw: bytes, site: Site) -> bytes:
    """One signed request in, one signed reply out. Never raises; a refusal is a reply too.

    Several threads may call it: requests of one study wait for each other, but for its end.
    """
    header = NOBODY
    try:
        request = _verify(raw, site)
        del raw
        header = request.header
        reply = _reply(request)
    except Exception as error:
        reply = refuse(site, header, error)
    return seal(_reply_header(header, reply.kind, site), reply.body, site.key)


def _verify(raw: bytes, site: Site) -> Request:
    header, body = unseal(raw, site.coordinator_key)
    if header.recipient != site.name or header.sender != site.config.coordinator.name:
        raise ProtocolError("the request is not from our coordinator to this site")
    return Request(site, header, body)


def _reply(request: Request) -> Reply:
    handler = HANDLERS.get(request.header.kind)
    if handler is None:
        raise ProtocolError("this site knows no such message")
    if handler is _close:
        return _commit(request, handler(request))
    request.site.notice()
    with request.site.turns.take(request.header.study):
        kept_as = calibration.kept_as(request.header, request.body)
        stored = Replies(request.site.database).find(kept_as, request.sha256)
        if stored is not None:
            _allowed(request)  # what was withdrawn since is not sent again either
            request.body = memoryview(b"")
            request.site.watermark.keep()
            return stored
        return _commit(request, handler(request))


def _commit(request: Request, made: Answer) -> Reply:
    """Pay, keep and record in one transaction, then mark it; only then may the reply leave."""
    if made.stored:
        with request.site.till:
            reply = _pay(request, _priced(request.site, made))
    else:
        reply = _released(made)
    request.site.watermark.keep()
    return reply


def _released(made: Answer) -> Reply:
    body = egress.release(made.message, made.take(), made.study, made.parameters)
    return Reply(kind_of(made.message), body)


def _priced(site: Site, made: Answer) -> Answer:
    """What it costs beside all that was spent before it; an update says so."""
    if made.spent is not None and made.study is not None:
        made.account = site.ledger(made.study).spent(made.study, made.spent)
        if isinstance(made.message, Update | Measured):
            made.message = made.message.model_copy(update={"spent": made.account})
    return made


def _pay(request: Request, made: Answer) -> Reply:
    site, header = request.site, request.header
    reply = _released(made)
    site.gate.admit(header.study, site.now_ms())
    with site.database.transaction():
        _allowed(request)  # nobody has said no while it was made
        if made.spent is not None and made.study is not None:
            _spend(request, made.study, made.spent)
        kept_as = calibration.kept_as(header, request.body)
        Replies(site.database).store(kept_as, request.sha256, reply)
        made.keep()
        recording.reply(site, header, reply, made.model)
        site.latest.advance(site.now_ms())
    return reply


def _spend(request: Request, study: Study, mechanism: Mechanism) -> None:
    site, header = request.site, request.header
    ledger = site.ledger(study)
    paid = ledger.spend(
        Spending(
            site=site.name,
            study=header.study,
            round=header.round,
            mechanism=mechanism,
            delta=ledger.delta(study),
            clip_norm=clip_norm(study, mechanism),
            clipping=clipping(study, mechanism),
            now_ms=site.now_ms(),
        )
    )
    site.log.append(
        "privacy.spent",
        actor=site.actor,
        study=header.study,
        round=header.round,
        obj=(paid.thing,),
        detail=paid.detail,
    )


def _invite(request: Request) -> Answer:
    message, _ = unpack(request.body, Invite)
    if message.study.digest != request.header.study:
        raise ProtocolError("the invitation's study is not the one it is signed for")
    _fit(request.site)
    return Answer(consent.consider(request.site, message.study), message.study, stored=False)


def _fit(site: Site) -> None:
    """Nothing about patients is made by a site whose records or clock cannot be relied on."""
    site.watermark.check()
    returned.require_none_lost(site)
    recording.clock(site)
    site.latest.check(site.now_ms())


def _approved(request: Request) -> Study:
    """The study that a request belongs to, if it may run here now."""
    study = _allowed(request)
    _fit(request.site)
    try:
        request.site.approved(study)
    except RefusedError:
        _allowed(request)  # a stop withdraws approvals, too: it is the reason, not its consequence
        raise
    if request.header.round > study.rounds_in_all:
        raise RefusedError(
            "study.rounds",
            f"{study.rounds_in_all} rounds were approved, not {request.header.round}",
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
    policy.check(known.study, site.policy, site.directory.config, site.name)
    return known.study


def _measure(request: Request) -> Answer:
    unpack(request.body, Measure)
    study = _approved(request)
    if not study.measures_first:
        raise RefusedError("study.scaling", "the study's inputs need no sums of patients")
    _trains(request.site, study)
    _check_budget(request.site, study, planned_reduction(study))
    return measuring.measured(request.site, study)


def _hold(request: Request) -> Answer:
    site, header = request.site, request.header
    _, came = unpack(request.body, Hold)
    study = _approved(request)
    _place(header, study)
    if not study.transfer.holds or not len(came):
        raise RefusedError("transfer.held", "all of the study's model travels")

    with site.database.transaction():
        if held.Held(site.database).begin(study.digest, came):
            recording.received(site, header, recording.model(came))
    return Answer(Held(), study, stored=False)


def _train(request: Request) -> Answer:
    site, header = request.site, request.header
    message, came = unpack(request.body, Train)
    study = _approved(request)
    at = _place(header, study)
    _trains(site, study)
    if at.left_out == site.name:
        raise RefusedError("round.left_out", "this round trains a model without this site")
    policy.check_hours(site.policy, site.clock().astimezone(), site.directory.config)
    cohort = site.workshop.prepare(study, message.statistics)
    policy.check_cohort(cohort.patients, site.policy, site.directory.config)
    _check_budget(site, study, planned(study))
    start = held.whole(site, study, came, cohort.travelling)
    update = site.workshop.train(study, message.statistics, start, at.round)
    keep = [
        staying.train_personal(site, study, message.statistics, start, at),
        staying.train_own(site, study, update.delta[len(came) :]),
    ]
    parameters, model = len(came), recording.model(came)
    del start, came
    request.body = memoryview(b"")
    return Answer(
        Update(weight=cohort.weight, spent=None, loss=update.loss),
        study,
        held.leaving(study, update.delta, parameters),
        parameters,
        update.mechanism,
        keep=staying.both(*keep),
        model=model,
    )


def _place(header: Header, study: Study) -> Track:
    if header.round < 1:
        raise ProtocolError("rounds count from 1")
    return study.track(header.round)


def _trains(site: Site, study: Study) -> None:
    """Whoever asks: a site that was approved to evaluate trains on nobody."""
    if site.name in study.sites.evaluate_only:
        raise RefusedError("study.evaluate_only", "by the study this site only evaluates")


def _check_budget(site: Site, study: Study, step: Mechanism | None) -> None:
    """Nothing begins on privacy that is not set aside, or beyond what was approved."""
    if step is None:
        return
    plan = planned_at(study, site.name)
    if len(site.ledger(study).reserved().get(study.digest, ())) < len(plan):
        consent.begin(site, study)
    site.ledger(study).check_left(study.digest, plan, step)
    site.ledger(study).check((step,), study.digest)


def _evaluate(request: Request) -> Answer:
    site = request.site
    message, model = unpack(request.body, Evaluate)
    study = _approved(request)
    at = _place(request.header, study)
    if not at.main and not at.last:
        raise RefusedError("round.left_out", "such a model is measured once, when it is finished")
    cohort = site.workshop.prepare(study, message.statistics)
    policy.check_cohort(cohort.patients, site.policy, site.directory.config)
    noise = planned_noise(study) if at.final else None
    paid = noise.mechanism if noise is not None else None
    _check_budget(site, study, paid)
    whole = held.whole(site, study, model, cohort.travelling)
    found = site.workshop.evaluate(
        study,
        message.statistics,
        whole,
        site.policy.minimum_cell,
        at.final,
        staying.personal(site, study, at),
    )
    if at.final and (study.explanation is not None or study.transfer.own):
        final_model.keep(site.directory.root, study, whole, message.statistics)
    return Answer(
        Evaluated(evaluation=found.leaves),
        study,
        spent=paid,
        keep=staying.results(site, study, found),
        model=recording.model(model),
    )


def _validate(request: Request) -> Answer:
    site = request.site
    message, model = unpack(request.body, Validate)
    study = _approved(request)
    _place(request.header, study)
    _trains(site, study)
    if study.training.patience is None:
        raise RefusedError("study.validation", "the study holds nobody out to stop early")
    cohort = site.workshop.prepare(study, message.statistics)
    policy.check_cohort(cohort.patients, site.policy, site.directory.config)
    whole = held.whole(site, study, model, cohort.travelling)
    loss = site.workshop.validate(study, message.statistics, whole, site.policy.minimum_cell)
    return Answer(Validated(loss=loss, weight=cohort.weight), study, model=recording.model(model))


def _calibrate(request: Request) -> Answer:
    site = request.site
    message, model = unpack(request.body, Calibrate)
    study = _approved(request)
    inquiry = calibration.admit(study, request.header, message, model, Replies(site.database))
    statistics = message.evaluate.statistics
    cohort = site.workshop.prepare(study, statistics)
    policy.check_cohort(cohort.patients, site.policy, site.directory.config)
    whole, minimum = held.whole(site, study, model, cohort.travelling), site.policy.minimum_cell
    return Answer(site.workshop.calibrate(study, statistics, whole, inquiry, minimum), study)


def _close(request: Request) -> Answer:
    site = request.site
    message, _ = unpack(request.body, Close)
    known = site.studies.by_digest(request.header.study)
    here_too = known.state == "ended" and known.note == message.outcome
    if not known.closed and not here_too:
        with site.database.transaction():
            site.studies.mark(known.digest, "ended", message.outcome)
            site.release(known.digest)
            staying.let_go(site, known.study)
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
    "hold": _hold,
    "train": _train,
    "evaluate": _evaluate,
    "validate": _validate,
    "calibrate": _calibrate,
    "close": _close,
    "witness": lambda it: Answer(witness.answer(it.site, it.header, it.body), None, stored=False),
}


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
