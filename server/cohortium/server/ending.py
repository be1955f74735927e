"""The end of a study: recorded with its cause, then told to every site until it has heard."""

from dataclasses import replace
from typing import Literal

from cohortium.common import timeouts
from cohortium.common.errors import CohortiumError
from cohortium.common.messages import Close, Closed
from cohortium.common.study import Study
from cohortium.server.desk import Desk

Ending = Literal["completed", "failed", "stopped"]

EVENTS: dict[Ending, Literal["run.completed", "run.failed", "run.stopped"]] = {
    "completed": "run.completed",
    "failed": "run.failed",
    "stopped": "run.stopped",
}


def resume_it(study: Study) -> str:
    """The next step where nothing about the study itself is wrong."""
    return f"then: cohortium study resume {study.name}"


def end(study: Study, desk: Desk, state: Ending, cause: str, next_step: str) -> None:
    """Store the end with its event, then tell the sites that can hear it."""
    with desk.store.database.transaction():
        desk.store.end(study.digest, state, cause, next_step, desk.now_ms())
        desk.log.append(
            EVENTS[state],
            actor=desk.actor,
            outcome="failure" if state == "failed" else "success",
            study=study.digest,
            reason=cause[:200] or None,
        )
    say_farewell(study, desk, state)


def say_farewell(study: Study, desk: Desk, state: Ending) -> None:
    """Tell the sites that have not confirmed yet; whoever stays silent is told another time."""
    talk = replace(desk.talk, stopped=lambda: "")
    names = desk.store.untold(study.digest)
    try:
        for said in talk.ask(
            names, Close(outcome=state), Closed, round=0, deadline_s=timeouts.FAREWELL_S
        ):
            desk.store.told(study.digest, said.site, desk.now_ms())
    except CohortiumError:
        pass  # the transport is gone, and with it everybody who could hear it
