"""Stopping early: when, by losses on patients who neither train nor test, and with which model.

Everything follows from the rounds that the store holds, so that whoever was interrupted goes on as
before. A study that has stopped goes straight to its last round, in which nobody trains: there the
best round's model is evaluated as the final one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cohortium.common.errors import ProtocolError
from cohortium.common.messages import Validate, Validated
from cohortium.common.study import Study
from cohortium.server.checkpoints import Checkpoints
from cohortium.server.desk import Desk, for_good
from cohortium.server.plausibility import check_validated
from cohortium.server.store import RoundRecord, Store, of_main_model

if TYPE_CHECKING:
    from cohortium.server.round import Exchange, Plan, Progress

Losses = Mapping[str, Validated]


@dataclass(frozen=True)
class Standing:
    """After some rounds: which was best so far (0: nobody could tell), and how many came since."""

    best: int = 0
    losses: Losses | None = None
    since: int = 0

    def after(self, round: int, losses: Losses) -> "Standing":
        """One round more. One of which no site could tell the loss says nothing."""
        if mean_loss(losses) is None:
            return self
        if self.losses is None or better(losses, self.losses):
            return Standing(round, losses)
        return Standing(self.best, self.losses, self.since + 1)


def standing(records: Iterable[RoundRecord]) -> Standing:
    """Where the main model stands after these rounds, in their order."""
    found = Standing()
    for record in of_main_model(records):
        found = found.after(record.round, record.validation)
    return found


def better(now: Losses, best: Losses) -> bool:
    """Whether the loss is lower, over the sites that told it both times, if any did."""
    common = {site for site in _told(now) if site in _told(best)}
    first, second = mean_loss(now, common), mean_loss(best, common)
    if first is None or second is None:
        first, second = mean_loss(now), mean_loss(best)
    return first is not None and second is not None and first < second


def mean_loss(losses: Losses, among: Iterable[str] | None = None) -> float | None:
    """Mean of the sites' losses by weight; None where no site told one."""
    told = _told(losses)
    chosen = told if among is None else {site: told[site] for site in among}
    total = sum(one.weight for one in chosen.values())
    if not total:
        return None
    return sum(one.weight * (one.loss or 0.0) for one in chosen.values()) / total


def _told(losses: Losses) -> dict[str, Validated]:
    return {site: one for site, one in losses.items() if one.loss is not None}


def reason(study: Study, store: Store) -> str:
    """Why training stops before its last round; empty while it goes on."""
    if study.training.patience is None:
        return ""
    records = store.rounds(study.digest)
    found = standing(record for record in records if record.round < study.training.rounds)
    if found.since < study.training.patience:
        return ""
    return (
        f"training stopped early: no lower loss on validation patients in {found.since} rounds "
        f"since round {found.best}, whose model is the final one"
    )


def skips(study: Study, desk: Desk, number: int) -> bool:
    """Whether a round is left out, as training has stopped before it."""
    if study.training.patience is None or number >= study.training.rounds:
        return False
    return bool(reason(study, desk.store))


def validate(
    plan: "Plan", desk: Desk, progress: "Progress", number: int, seen: "Exchange"
) -> Losses:
    """What the sites that train say of the round's model; a silent one is left out."""
    study, found = plan.study, dict[str, Validated]()
    if study.training.patience is None:
        return found
    desk.store.say(study.digest, f"round {number}, loss on validation patients")
    question = Validate(statistics=plan.statistics)
    for said in desk.talk.ask(
        tuple(n for n in progress.able(plan.trainers) if not for_good(seen.refused.get(n, ""))),
        question,
        Validated,
        round=number,
        deadline_s=study.sites.round_deadline,
        body=progress.packed(question, progress.state.model),
    ):
        message = seen.note(said, lambda one: check_validated(study, one))
        if message is not None:
            found[said.site] = message
    return {name: found[name] for name in plan.sites if name in found}


def settle(study: Study, desk: Desk, progress: "Progress", losses: Losses) -> int:
    """Put the best round's state into the last one's place; which round that is, 0 for none.

    Raises:
        ProtocolError: that state cannot be read any more.
    """
    last = study.training.rounds
    before = [r for r in desk.store.rounds(study.digest) if r.round < last]
    best = standing(before).after(last, losses).best
    if best and best != last:
        try:
            progress.state = Checkpoints(desk.store.database, study.digest).load(best)
        except ProtocolError as error:
            raise ProtocolError(f"the best model by validation is lost: {error}") from None
    return best


def kept_always(study: Study, desk: Desk) -> tuple[int, ...]:
    """The rounds whose states are never too old: the last, and the best so far."""
    if study.training.patience is None:
        return (study.training.rounds,)
    return study.training.rounds, standing(desk.store.rounds(study.digest)).best
