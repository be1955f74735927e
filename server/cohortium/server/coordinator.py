"""A study from invitation to final model: invite, plan, train, aggregate, evaluate, record.

Nothing here knows Flower. The state between rounds is one value, kept in the store after every
round: to resume is to call `run_study` again.
"""

import logging
from dataclasses import replace

from cohortium.common import arrays, bands
from cohortium.common.errors import CohortiumError, ProtocolError
from cohortium.common.messages import Measure, Measured, Vector
from cohortium.common.models.building import study_module, travelling
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.server import early_stopping
from cohortium.server.aggregation.optimizer import ServerState, final_model
from cohortium.server.calibration import calibrated
from cohortium.server.checkpoints import Checkpoints
from cohortium.server.consent import invite
from cohortium.server.conversation import StudyStopped
from cohortium.server.desk import Desk, StudyFailed, for_good
from cohortium.server.ending import end, resume_it
from cohortium.server.holding import holders
from cohortium.server.plausibility import check_statistics
from cohortium.server.reducing import agree_on_projection
from cohortium.server.round import Exchange, Plan, Progress, gather, run_round
from cohortium.server.store import RoundRecord
from cohortium.server.successor import start_of

logger = logging.getLogger("cohortium.coordinator")


def run_study(study: Study, desk: Desk) -> Vector:
    """Run a study, or go on with it, to its final model: float32 (parameters,).

    Whatever happens, the store holds a terminal state and sites are told that it is over.

    Raises:
        StudyFailed, StudyStopped: with the cause.
        UnreachableError: the transport is gone; the study stays resumable.
    """
    desk.store.begin(study.digest)
    try:
        sites = invite(study, desk)
        with desk.turn(lambda words: desk.store.say(study.digest, words)):
            model = _rounds(_plan(study, sites, desk), desk)
    except StudyStopped as error:
        end(study, desk, "stopped", str(error), f"if it should go on, {resume_it(study)}")
        raise
    except StudyFailed as error:
        end(study, desk, "failed", str(error), error.next_step)
        raise
    except ProtocolError as error:
        advice = "change the study accordingly and submit it under another name"
        end(study, desk, "failed", str(error), advice)
        raise StudyFailed(str(error), advice) from None
    end(study, desk, "completed", early_stopping.reason(study, desk.store), "")
    return model


def initial_model(study: Study) -> Vector:
    """The model that round 1 starts from: PyTorch's initialisation under the study's seed."""
    return arrays.flatten(study_module(study))


def _plan(study: Study, sites: tuple[str, ...], desk: Desk) -> Plan:
    """Before the first round: the sums for federated-standard scaling, where the study wants it."""
    desk.log.append(
        "run.resumed" if desk.store.rounds(study.digest) else "run.started",
        actor=desk.actor,
        study=study.digest,
        detail={"rounds": str(study.rounds_in_all), "sites": ", ".join(sites)[:200]},
    )
    consents = desk.store.consents(study.digest)
    patients = {name: bands.least(consents[name].patients) for name in sites}
    if not study.measures_first:
        return Plan(study, sites, None, patients)
    kept = desk.store.statistics(study.digest)
    if kept is not None:
        return Plan(study, sites, kept, patients)
    plan = Plan(study, sites, None, patients)
    scales = study.preprocessing.scaling == "federated-standard"
    return _measure(plan, desk) if scales else agree_on_projection(plan, desk)


def _measure(plan: Plan, desk: Desk) -> Plan:
    study, seen = plan.study, Exchange()
    measured: dict[str, Statistics] = {}
    training = replace(plan, sites=plan.trainers)
    for said in gather(
        training, desk, Measure(), Measured, round=0, seen=seen, doing="measuring for scaling"
    ):
        message = seen.note(said, lambda m: check_statistics(study, m.statistics))
        if message is not None and message.statistics is not None:
            measured[said.site] = message.statistics
            seen.count_in(said.site)
    first, *others = (measured[name] for name in plan.trainers if name in measured)
    total = sum(others, start=first)
    present = tuple(n for n in plan.sites if n in measured or n not in plan.trainers)
    desk.store.keep_statistics(study.digest, total)
    return Plan(study, present, total, plan.patients, {**seen.refused})


def _rounds(plan: Plan, desk: Desk) -> Vector:
    study = plan.study
    checkpoints = Checkpoints(desk.store.database, study.digest)
    state, first = _resume(study, desk, checkpoints)
    records = desk.store.rounds(study.digest)
    since = [record for record in records if record.round > _forgiven(study, desk)]
    progress = Progress(state, travelling(study), holders(since))
    del state  # a large model is in memory as seldom as possible
    gone, steps = dict(plan.gone), dict[str, int]()
    for record in records:
        if record.round < first:
            steps |= _steps(record)
    for record in since:
        gone |= _gone(record)
    for number in range(first, study.rounds_in_all + 1):
        at = study.track(number)
        sites = tuple(name for name in plan.sites if name not in gone)
        now = replace(plan, sites=sites, gone=gone, steps=steps, left_out=at.left_out)
        if (not at.main and not _worth_it(now)) or early_stopping.skips(study, desk, number):
            continue
        if at.first and not at.main:
            progress.state = _start(study, desk)
        record = run_round(now, desk, progress, number)
        if number == study.training.rounds:
            record = calibrated(now, desk, progress, record)
        with desk.store.database.transaction():
            desk.store.record(study.digest, record)
            always = early_stopping.kept_always(study, desk)
            checkpoints.keep(number, progress.state, always)
            _log_round(study, desk, record)
        gone |= _gone(record)
        steps |= _steps(record)
    if not study.left_out:
        return final_model(progress.state)
    return final_model(checkpoints.load(study.training.rounds))


def _worth_it(plan: Plan) -> bool:
    """Whether a model without a site can be measured there, and enough others are left."""
    return plan.left_out in plan.sites and len(plan.trainers) >= plan.quorum[0]


def _forgiven(study: Study, desk: Desk) -> int:
    """A study that somebody resumed has asked its sites anew: what they refused before is past."""
    return desk.store.study(study.digest).resumed_after


def _gone(record: RoundRecord) -> dict[str, str]:
    return {site: reason for site, reason in record.refused.items() if for_good(reason)}


def _steps(record: RoundRecord) -> dict[str, int]:
    return {site: spent.steps for site, spent in record.spent.items()}


def _resume(study: Study, desk: Desk, checkpoints: Checkpoints) -> tuple[ServerState, int]:
    """The newest state that can be read, and the round to go on with.

    Where the last is damaged its round is asked for again: the sites have stored their replies.
    """
    for number in checkpoints.rounds():
        try:
            return checkpoints.load(number), number + 1
        except CohortiumError as error:
            logger.error("study %s: %s; going back one round", study.name, error)
    return _start(study, desk), 1


def _start(study: Study, desk: Desk) -> ServerState:
    """Before the first round of a track."""
    if study.continues is not None:
        return ServerState.start(start_of(study.continues, desk.store))
    if study.transfer.start is not None:
        raise ProtocolError(
            "the parameters that the study begins with are not here: they come with `study submit`"
        )
    return ServerState.start(initial_model(study))


def _log_round(study: Study, desk: Desk, record: RoundRecord) -> None:
    desk.log.append(
        "round.aggregated",
        actor=desk.actor,
        study=study.digest,
        round=record.round,
        reason=record.stopped or None,
        detail={"replied": str(len(record.replied)), "missing": str(len(record.missing))},
    )
    late = dict.fromkeys(record.missing, "reply.late")  # whatever comes now is dropped unread
    for site, reason in {**late, **record.refused}.items():
        desk.log.append(
            "node.dropped",
            actor=desk.actor,
            study=study.digest,
            round=record.round,
            reason=reason.split(":")[0],
            detail={"site": site},
        )
