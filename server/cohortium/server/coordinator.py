"""A study from invitation to final model: invite, plan, train, aggregate, evaluate, record.

Nothing here knows Flower. The state between rounds is one value, kept in the store after every
round: to resume is to call `run_study` again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from cohortium.common import arrays
from cohortium.common.document import Document
from cohortium.common.errors import CohortiumError, ProtocolError
from cohortium.common.messages import (
    Close,
    Closed,
    Evaluate,
    Evaluated,
    Measure,
    Measured,
    Refusal,
    Spent,
    Train,
    Update,
    Vector,
    kind_of,
)
from cohortium.common.metrics.summary import summarise
from cohortium.common.metrics.tally import SiteEvaluation
from cohortium.common.models.building import build_seeded
from cohortium.common.preprocessing.encode import feature_names
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.server.aggregation import optimizer
from cohortium.server.aggregation.fold import Fold
from cohortium.server.aggregation.optimizer import ServerState, final_model
from cohortium.server.consent import invite
from cohortium.server.conversation import Said, StudyStopped
from cohortium.server.desk import Desk, StudyFailed, for_good
from cohortium.server.plausibility import check_evaluation, check_statistics, check_update
from cohortium.server.store import RoundRecord

CLOSE_S = 5.0
Ending = Literal["completed", "failed", "stopped"]
M = TypeVar("M", bound=Document)


@dataclass(frozen=True)
class Plan:
    """Who takes part, who no longer does and why, and what all must know."""

    study: Study
    sites: tuple[str, ...]
    statistics: Statistics | None
    gone: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Exchange:
    """What one round gathered besides the model."""

    replied: list[str] = field(default_factory=list)
    received: dict[str, dict[str, int]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def note(self, said: Said[M], check: Callable[[M], None]) -> M | None:
        """Count the bytes and remember a refusal; the message if it is none and passes `check`."""
        kinds = self.received.setdefault(said.site, {})
        kind = kind_of(said.message)
        kinds[kind] = kinds.get(kind, 0) + said.bytes
        if isinstance(said.message, Refusal):
            self.refused[said.site] = f"{said.message.rule}: {said.message.explanation}"
            return None
        try:
            check(said.message)
        except ProtocolError as error:
            self.refused[said.site] = f"reply.protocol: {error}"
            return None
        return said.message


def run_study(study: Study, desk: Desk) -> Vector:
    """Run a study, or go on with it, to its final model: float32 (parameters,).

    Whatever happens, sites are told that it is over and the store holds a terminal state.

    Raises:
        StudyFailed, StudyStopped: with the cause.
        UnreachableError: the transport is gone; the study stays resumable.
    """
    digest = study.digest
    desk.store.begin(digest)
    try:
        model = _rounds(_plan(study, invite(study, desk), desk), desk)
    except StudyStopped as error:
        _end(study, desk, "stopped", str(error))
        raise
    except (StudyFailed, ProtocolError) as error:
        _end(study, desk, "failed", str(error))
        raise StudyFailed(str(error)) from None
    _end(study, desk, "completed", "")
    return model


def initial_model(study: Study) -> Vector:
    """The model that round 1 starts from: PyTorch's initialisation under the study's seed."""
    inputs = len(feature_names(study))
    return arrays.flatten(build_seeded(study.model, inputs, 1, study.training.seed))


def _plan(study: Study, sites: tuple[str, ...], desk: Desk) -> Plan:
    """Before the first round: the sums for federated-standard scaling, where the study wants it."""
    resumed = desk.store.checkpoint(study.digest) is not None
    desk.log.append(
        "run.resumed" if resumed else "run.started",
        actor=desk.actor,
        study=study.digest,
        detail={"rounds": str(study.training.rounds), "sites": ", ".join(sites)[:200]},
    )
    if study.preprocessing.scaling != "federated-standard":
        return Plan(study, sites, None)
    kept = desk.store.statistics(study.digest)
    if kept is not None:
        return Plan(study, sites, kept)
    measured: dict[str, Statistics] = {}
    seen = Exchange()
    deadline_s = study.sites.round_deadline
    for said in desk.talk.ask(sites, Measure(), Measured, round=0, deadline_s=deadline_s):
        message = seen.note(said, lambda m: check_statistics(study, m.statistics))
        if message is not None:
            measured[said.site] = message.statistics
            seen.replied.append(said.site)
    _require_quorum(Plan(study, sites, None), "measuring for scaling", seen)
    present = tuple(name for name in sites if name in measured)
    total = measured[present[0]]
    for name in present[1:]:
        total = total + measured[name]
    desk.store.keep_statistics(study.digest, total)
    return Plan(study, present, total, {**seen.refused})


def _rounds(plan: Plan, desk: Desk) -> Vector:
    study = plan.study
    state, first = _resume(study, desk)
    gone = dict(plan.gone)
    for record in desk.store.rounds(study.digest):
        gone |= _gone(record)
    for number in range(first, study.training.rounds + 1):
        sites = tuple(name for name in plan.sites if name not in gone)
        state, record = _round(Plan(study, sites, plan.statistics, gone), desk, state, number)
        desk.store.record(study.digest, record, optimizer.to_bytes(state))
        gone |= _gone(record)
    return final_model(state)


def _gone(record: RoundRecord) -> dict[str, str]:
    return {site: reason for site, reason in record.refused.items() if for_good(reason)}


def _resume(study: Study, desk: Desk) -> tuple[ServerState, int]:
    found = desk.store.checkpoint(study.digest)
    if found is None:
        return ServerState.start(initial_model(study)), 1
    return optimizer.from_bytes(found[1]), found[0] + 1


def _round(
    plan: Plan, desk: Desk, state: ServerState, number: int
) -> tuple[ServerState, RoundRecord]:
    """Train, aggregate, evaluate, record."""
    study, started = plan.study, time.monotonic()
    total = study.training.rounds
    desk.store.say(study.digest, f"round {number} of {total}: training")
    seen = Exchange()
    mean, spent = _train(plan, desk, state.model, number, seen)
    state = optimizer.step(state, mean, study.strategy, number, total)
    evaluations = {}
    if number == total or number % study.evaluation.every == 0:
        desk.store.say(study.digest, f"round {number} of {total}: evaluating")
        model = final_model(state) if number == total else state.model
        evaluations = _evaluate(plan, desk, model, number, seen)
    record = RoundRecord(
        round=number,
        seconds=round(time.monotonic() - started, 3),
        received=seen.received,
        replied=tuple(seen.replied),
        missing=tuple(n for n in plan.sites if n not in seen.replied),
        refused=seen.refused,
        spent=spent,
        evaluations=evaluations,
        summary=summarise(evaluations) if evaluations else None,
    )
    _log_round(study, desk, record)
    return state, record


def _train(
    plan: Plan, desk: Desk, model: Vector, number: int, seen: Exchange
) -> tuple[Vector, dict[str, Spent]]:
    """Ask for updates and fold each as it arrives; the weighted mean, and what each site spent."""
    fold, spent = Fold(len(model)), dict[str, Spent]()
    for said in desk.talk.ask(
        plan.sites,
        Train(statistics=plan.statistics),
        Update,
        round=number,
        deadline_s=plan.study.sites.round_deadline,
        vector=model,
    ):

        def take(update: Update, vector: Vector = said.vector) -> None:
            check_update(plan.study, update)
            fold.add(vector, update.weight)

        update = seen.note(said, take)
        if update is None:
            continue
        seen.replied.append(said.site)
        if update.spent is not None:
            spent[said.site] = update.spent
    _require_quorum(plan, f"round {number}", seen)
    return fold.mean(), spent


def _evaluate(
    plan: Plan, desk: Desk, model: Vector, number: int, seen: Exchange
) -> dict[str, SiteEvaluation]:
    """What sites say of a model on their held-out patients; a silent site is left out."""
    found = {}
    for said in desk.talk.ask(
        tuple(name for name in plan.sites if not for_good(seen.refused.get(name, ""))),
        Evaluate(statistics=plan.statistics),
        Evaluated,
        round=number,
        deadline_s=plan.study.sites.round_deadline,
        vector=model,
    ):
        message = seen.note(said, lambda m: check_evaluation(plan.study, m.evaluation))
        if message is not None:
            found[said.site] = message.evaluation
    return {name: found[name] for name in plan.sites if name in found}


def _require_quorum(plan: Plan, when: str, seen: Exchange) -> None:
    study = plan.study
    if len(seen.replied) >= study.sites.min_sites:
        return
    refused = {**plan.gone, **seen.refused}
    reasons = [f"{site} refused ({reason})" for site, reason in sorted(refused.items())]
    silent = [name for name in plan.sites if name not in seen.replied and name not in seen.refused]
    if silent:
        reasons.append(f"no reply within {study.sites.round_deadline:g} s from {', '.join(silent)}")
    raise StudyFailed(
        f"{when}: {len(seen.replied)} of the {study.sites.min_sites} sites needed replied; "
        + "; ".join(reasons)
    )


def _log_round(study: Study, desk: Desk, record: RoundRecord) -> None:
    desk.log.append(
        "round.aggregated",
        actor=desk.actor,
        study=study.digest,
        round=record.round,
        detail={"replied": str(len(record.replied)), "missing": str(len(record.missing))},
    )
    for site, reason in record.refused.items():
        desk.log.append(
            "node.dropped",
            actor=desk.actor,
            study=study.digest,
            round=record.round,
            reason=reason.split(":")[0],
            detail={"site": site},
        )


ENDINGS: dict[Ending, Literal["run.completed", "run.failed", "run.stopped"]] = {
    "completed": "run.completed",
    "failed": "run.failed",
    "stopped": "run.stopped",
}


def _end(study: Study, desk: Desk, state: Ending, cause: str) -> None:
    """Store the end with its event, then tell the sites that can hear it."""
    with desk.store.database.transaction():
        desk.store.end(study.digest, state, cause, desk.now_ms())
        desk.log.append(
            ENDINGS[state],
            actor=desk.actor,
            outcome="failure" if state == "failed" else "success",
            study=study.digest,
            reason=cause[:200] or None,
        )
    names = tuple(desk.store.consents(study.digest))
    try:
        for _ in desk.talk.ask(names, Close(outcome=state), Closed, round=0, deadline_s=CLOSE_S):
            pass
    except CohortiumError:
        pass  # a site that does not hear it finds out when it is asked nothing more
