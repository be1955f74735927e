"""What of a study's model does not travel every round: each site is sent it once."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cohortium.common.messages import Held, Hold, Vector, pack
from cohortium.common.models.building import travelling
from cohortium.common.study import Study
from cohortium.server.desk import Desk, for_good
from cohortium.server.store import RoundRecord

if TYPE_CHECKING:
    from cohortium.server.round import Exchange, Plan, Progress


def sent(study: Study, model: Vector) -> Vector:
    """What of a model goes over the wire."""
    return model[: travelling(study)]


def holders(records: Iterable[RoundRecord]) -> set[str]:
    """Who held on to it when these rounds had ended."""
    found = set[str]()
    for record in records:
        found |= {*record.replied, *record.evaluations}
        found -= {site for site, why in record.refused.items() if why.startswith("transfer.held")}
    return found


def hand_out(
    plan: "Plan", desk: Desk, progress: "Progress", number: int, seen: "Exchange", *, must: bool
) -> None:
    """Send it to those of a plan who have not got it.

    Args:
        must: whether the round needs them, as it needs their updates.

    Raises:
        StudyFailed: if it does, and too few of them have it now.
    """
    from cohortium.server.round import gather, named

    lacking = tuple(n for n in plan.sites if n not in progress.able(plan.sites))
    lacking = tuple(n for n in lacking if not for_good(seen.refused.get(n, "")))
    if not lacking:
        return
    # that they have it says nothing of patients: it is no egress to be recorded
    question, there = Hold(), replace(seen, received={}, replied=list(progress.able(plan.sites)))
    body = pack(question, progress.state.model[progress.travelling :])
    doing = f"{named(plan, number)}, sending what does not travel again"
    asked: dict[str, Any] = {"round": number, "body": body}
    if must:
        answers = gather(plan, desk, question, Held, seen=there, doing=doing, **asked)
    else:
        deadline_s = plan.study.sites.round_deadline
        answers = desk.talk.ask(lacking, question, Held, deadline_s=deadline_s, **asked)
    for said in answers:
        if there.note(said, lambda _: None) is not None:
            there.count_in(said.site)
            progress.holding.add(said.site)
