"""One round: train, aggregate, evaluate; and who has to be there for it."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from cohortium.common import newton, timeouts
from cohortium.common.document import Document
from cohortium.common.errors import ProtocolError
from cohortium.common.messages import (
    Calibrate,
    Evaluate,
    Evaluated,
    Question,
    Refusal,
    Spent,
    Train,
    Update,
    Validate,
    Vector,
    kind_of,
    pack,
    unpack,
)
from cohortium.common.metrics.summary import summarise
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.schedule import of_the_coordinator
from cohortium.common.study import Study
from cohortium.server import early_stopping
from cohortium.server.aggregation import optimizer
from cohortium.server.aggregation.fold import Fold
from cohortium.server.aggregation.loss_weight import loss_weight
from cohortium.server.aggregation.optimizer import ServerState, final_model
from cohortium.server.conversation import Said
from cohortium.server.desk import Desk, StudyFailed, for_good
from cohortium.server.ending import resume_it
from cohortium.server.holding import hand_out
from cohortium.server.plausibility import check_update
from cohortium.server.plausible_evaluation import check_evaluation
from cohortium.server.store import RoundRecord

M = TypeVar("M", bound=Document)


@dataclass(frozen=True)
class Plan:
    """Who takes part, who no longer does and why, and what all must know.

    patients: the lower end of each site's public size band, 0 where it said none.
    steps: what each site's ledger held of this study when it last said so.
    left_out: the site that this round's track trains without (`common/tracks.py`), if any.
    """

    study: Study
    sites: tuple[str, ...]
    statistics: Statistics | None
    patients: Mapping[str, int]
    gone: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)
    left_out: str = ""

    @property
    def trainers(self) -> tuple[str, ...]:
        """Who is asked to train; the others only evaluate."""
        idle = (*self.study.sites.evaluate_only, self.left_out)
        return tuple(name for name in self.sites if name not in idle)

    @property
    def quorum(self) -> tuple[int, int]:
        """How many sites, and patients, a round needs; nobody counts on the site left out."""
        sites = self.study.sites
        if not self.left_out:
            return sites.min_sites, sites.min_patients
        fewer = max(0, sites.min_patients - self.patients.get(self.left_out, 0))
        return min(sites.min_sites, len(self.study.left_out) - 1), fewer


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
            self.refused[said.site] = _reason(said.message)
            return None
        try:
            check(said.message)
        except ProtocolError as error:
            self.refused[said.site] = f"reply.protocol: {error}"
            return None
        return said.message

    def count_in(self, site: str) -> None:
        """A site has replied; what it refused before it was asked again is past."""
        self.replied.append(site)
        self.refused.pop(site, None)

    def missing(self, sites: tuple[str, ...]) -> tuple[str, ...]:
        """Who has not replied and may still do so."""
        return tuple(
            name
            for name in sites
            if name not in self.replied and not for_good(self.refused.get(name, ""))
        )


@dataclass
class Progress:
    """The state that a round starts from, and then the one that it ends in.

    A large model is held once: while it travels, the state's is a view of what is sent.

    travelling: how many of its parameters are sent each round, the first; None for all.
    holding: the sites that were sent the others (`holding.py`).
    """

    state: ServerState
    travelling: int | None = None
    holding: set[str] = field(default_factory=set)

    def able(self, sites: tuple[str, ...]) -> tuple[str, ...]:
        """Those of some sites that have the whole model once they are sent what travels."""
        if self.travelling is None:
            return sites
        return tuple(name for name in sites if name in self.holding)

    def packed(self, question: Train | Evaluate | Validate | Calibrate, model: Vector) -> bytes:
        """A question with a model, which is from now on the state's own if it was before."""
        if self.travelling is not None:
            return pack(question, model[: self.travelling])
        body = pack(question, model)
        if model is self.state.model:
            self.state = replace(self.state, model=unpack(body, type(question))[1])
        return body


def run_round(plan: Plan, desk: Desk, progress: Progress, number: int) -> RoundRecord:
    """Carry `progress` over a round; what happened in it.

    Raises:
        StudyFailed: the quorum is not there, or somebody is missing whom the study insists on.
        ProtocolError: training diverged.
    """
    study, started = plan.study, time.monotonic()
    at = study.track(number)
    seen = Exchange()
    stopped, best = early_stopping.reason(study, desk.store), 0
    spent, losses = ({}, {}) if stopped else _one_step(plan, desk, progress, number, seen)
    if at.final and study.training.patience is not None:
        best = early_stopping.settle(study, desk, progress, losses)
    evaluations = {}
    counts_early = study.evaluation.noise_epsilon is None and number % study.evaluation.every == 0
    if at.last or (at.main and counts_early):
        desk.store.say(study.digest, f"{named(plan, number)}, evaluating")
        evaluations = _evaluate(plan, desk, progress, number, seen)
    return RoundRecord(
        round=number,
        seconds=round(time.monotonic() - started, 3),
        received=seen.received,
        replied=tuple(seen.replied),
        missing=() if stopped else tuple(n for n in plan.trainers if n not in seen.replied),
        refused=seen.refused,
        spent=spent,
        evaluations=evaluations,
        summary=summarise(evaluations) if evaluations else None,
        left_out=plan.left_out,
        validation=losses,
        best=best,
        stopped=stopped,
    )


def _one_step(
    plan: Plan, desk: Desk, progress: Progress, number: int, seen: Exchange
) -> tuple[dict[str, Spent], early_stopping.Losses]:
    """Train and aggregate; what it cost each site, and the loss of what came out of it."""
    study, at = plan.study, plan.study.track(number)
    mean, spent = _train(plan, desk, progress, number, seen)
    strategy = of_the_coordinator(study.strategy, study.training, at.round)
    progress.state = optimizer.step(progress.state, mean, strategy, at.round, at.rounds)
    del mean  # it has become the model
    return spent, early_stopping.validate(plan, desk, progress, number, seen)


def named(plan: Plan, number: int) -> str:
    """A round in words."""
    without = f", without {plan.left_out}" if plan.left_out else ""
    return f"round {number} of {plan.study.rounds_in_all}{without}"


def gather(
    plan: Plan,
    desk: Desk,
    question: Question,
    expected: type[M],
    *,
    round: int,
    seen: Exchange,
    doing: str,
    body: bytes | None = None,
) -> Iterator[Said[M]]:
    """Ask the sites of a plan that have not replied; again and again, if the study waits.

    Yields every answer; the caller puts into `seen` who has replied.

    Raises:
        StudyFailed: at the deadline too few have replied, or one too few if the study stops then.
    """
    wanted, pause = seen.missing(plan.sites), timeouts.MISSING_AGAIN_S[0]
    while True:
        desk.store.say(plan.study.digest, f"{doing}: waiting for {', '.join(wanted)}")
        for said in desk.talk.ask(
            wanted,
            question,
            expected,
            round=round,
            deadline_s=plan.study.sites.round_deadline,
            body=body,
        ):
            yield said
            del said  # before the transport puts the next reply together
            left = seen.missing(wanted)
            if left:
                desk.store.say(plan.study.digest, f"{doing}: waiting for {', '.join(left)}")
        wanted = seen.missing(plan.sites)
        if not wanted or plan.study.sites.on_missing != "wait":
            break
        desk.talk.sleep(pause)
        pause = min(2 * pause, timeouts.MISSING_AGAIN_S[1])
    _require_quorum(plan, doing, seen)


def _train(
    plan: Plan, desk: Desk, progress: Progress, number: int, seen: Exchange
) -> tuple[Vector, dict[str, Spent]]:
    """Ask for updates and fold each as it arrives; the weighted mean, and what each site spent."""
    strategy = plan.study.strategy
    parameters = len(progress.state.model)
    travelling = parameters if progress.travelling is None else progress.travelling
    length = newton.update_length(plan.study, travelling)
    fold, spent = Fold(length, desk.scratch), dict[str, Spent]()
    question, trainers = Train(statistics=plan.statistics), replace(plan, sites=plan.trainers)
    hand_out(trainers, desk, progress, number, seen, must=True)
    for said in gather(
        replace(plan, sites=progress.able(plan.trainers)),
        desk,
        question,
        Update,
        round=number,
        seen=seen,
        doing=f"{named(plan, number)}, training",
        body=progress.packed(question, progress.state.model),
    ):
        steps = plan.steps.get(said.site, 0)

        def take(update: Update, vector: Vector = said.vector, steps: int = steps) -> None:
            check_update(plan.study, update, steps)
            private = plan.study.privacy.mechanism != "none"
            fold.add(vector, update.weight * loss_weight(strategy, update.loss, private))

        update, site = seen.note(said, take), said.site
        del said, take  # before the transport puts the next reply together
        if update is None:
            continue
        seen.count_in(site)
        if update.spent is not None:
            spent[site] = update.spent
    mean = fold.mean()
    if travelling < parameters:  # nothing of the others has changed
        mean = np.concatenate([mean, np.zeros(parameters - travelling, np.float32)])
    return mean, spent


def _evaluate(
    plan: Plan, desk: Desk, progress: Progress, number: int, seen: Exchange
) -> dict[str, SiteEvaluation]:
    """What sites say of a model on their held-out patients; a silent site is left out."""
    found = {}
    at = plan.study.track(number)
    hand_out(plan, desk, progress, number, seen, must=False)
    model, final = final_model(progress.state) if at.last else progress.state.model, at.final
    question = Evaluate(statistics=plan.statistics)
    body = progress.packed(question, model)
    del model
    for said in desk.talk.ask(
        tuple(n for n in progress.able(plan.sites) if not for_good(seen.refused.get(n, ""))),
        question,
        Evaluated,
        round=number,
        deadline_s=plan.study.sites.round_deadline,
        body=body,
    ):
        message = seen.note(said, lambda m: check_evaluation(plan.study, m.evaluation, final))
        if message is not None:
            found[said.site] = message.evaluation
    return {name: found[name] for name in plan.sites if name in found}


def _require_quorum(plan: Plan, doing: str, seen: Exchange) -> None:
    sites, (needed, enough) = plan.study.sites, plan.quorum
    patients = sum(plan.patients.get(name, 0) for name in seen.replied)
    if len(seen.replied) < needed:
        said = f"{len(seen.replied)} of the {needed} sites needed replied"
    elif patients < enough:
        said = f"those who replied have {patients} of the {enough} patients needed"
    elif sites.on_missing == "stop" and len(seen.replied) < len(plan.sites):
        said = 'a site is missing, and the study says on_missing = "stop"'
    else:
        return
    refused = {**plan.gone, **seen.refused}
    reasons = [f"{site} refused ({reason})" for site, reason in sorted(refused.items())]
    silent = [name for name in plan.sites if name not in seen.replied and name not in seen.refused]
    if silent:
        reasons.append(f"no reply within {sites.round_deadline:g} s from {', '.join(silent)}")
    raise StudyFailed(
        f"{doing}: {said}; " + "; ".join(reasons),
        "bring the sites named back (an id in brackets finds the lines in a site's log), "
        + resume_it(plan.study),
    )


def _reason(refusal: Refusal) -> str:
    found_by = f" [{refusal.correlation_id}]" if refusal.correlation_id else ""
    return f"{refusal.rule}: {refusal.explanation}{found_by}"
