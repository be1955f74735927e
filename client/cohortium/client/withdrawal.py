"""Withdrawing a dataset: no study uses it from now on, and which models did is said.

What was learnt from it cannot be taken out of a model again: who withdraws gets the list of the
rounds that used it, so that the coordinator can train anew from before the first of them.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from cohortium.client import halt, staying
from cohortium.client.site import Site
from cohortium.client.studies import KnownStudy
from cohortium.client.watermark import LostRecords
from cohortium.common.audit.events import Event, os_user, timestamp
from cohortium.common.errors import UsageError

USES = {
    "measure": "measured",
    "train": "trained",
    "evaluate": "evaluated",
    "validate": "evaluated",
}
PAID = {
    "training": "trained",
    "measurement": "measured",
    "validation": "evaluated",
    "evaluation": "evaluated",
}
EVENTS = {
    "round.update.sent": "trained",
    "evaluation.completed": "evaluated",
    "evaluation.validated": "evaluated",
}


@dataclass(frozen=True)
class Usage:
    """What one study had of a dataset: rounds count from 1; `measured` sums went before them.

    from_round: the first round to train again, so that no model knows the dataset; None for none.
    models: those that know it, as far as they came here: SHA-256 over their parameters, hex.
    """

    study: str
    digest: str
    trained: tuple[int, ...]
    evaluated: tuple[int, ...]
    measured: bool
    from_round: int | None
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Withdrawn:
    """What a withdrawal ended and found, and the event that records it."""

    dataset: str
    by: str
    stopped: tuple[str, ...]
    used_by: tuple[Usage, ...]
    event: str


def withdraw(site: Site, name: str, person: str) -> Withdrawn:
    """Let no study use a dataset any more; twice is once.

    The file that says so is written first: whatever happens then, nothing is trained. Studies on
    the dataset lose their approvals, and those that run are stopped as `site stop` does it.

    Raises:
        UsageError: no such dataset.
        CohortiumError: a training process is still there after 5 s.
    """
    directory = site.directory
    if name not in directory.datasets():
        known = ", ".join(directory.datasets()) or "none"
        raise UsageError(f'no dataset "{name}" is registered at this site; known: {known}')
    if not directory.is_withdrawn(name):
        config = directory.load_dataset_config(name)
        words = f"{person}, {timestamp(site.clock())}"
        directory.write_dataset(name, config.model_copy(update={"withdrawn": words}))
    stopped = tuple(_end_studies(site, name, person))
    with site.database.transaction():
        for item in site.studies.all():
            if item.study.data.dataset == name:
                staying.forget(site, item.digest)  # models and results made of these patients
    event = _recorded(site, name) or site.log.append(
        "dataset.retired", actor=os_user(), detail={"dataset": name, "person": person}
    )
    with suppress(LostRecords):
        site.watermark.keep()  # an older database would not know which rounds used it
    return Withdrawn(name, event.detail["person"], stopped, tuple(usage(site, name)), event.id)


def usage(site: Site, name: str) -> Iterator[Usage]:
    """What each study had of a dataset, oldest first: by the log, the ledger and stored replies."""
    seen: dict[str, dict[str, set[int]]] = {}
    for study, use, round_number in (*_events(site), *_ledger(site, name), *_replies(site)):
        seen.setdefault(study, {}).setdefault(use, set()).add(round_number)
    for known in reversed(site.studies.all()):
        had = seen.get(known.digest)
        if had and known.study.data.dataset == name:
            used = _usage(known, had)
            yield replace(used, models=tuple(dict.fromkeys(_models(site, known, used))))


def _usage(known: KnownStudy, had: dict[str, set[int]]) -> Usage:
    trained, measured = tuple(sorted(had.get("trained", ()))), "measured" in had
    return Usage(
        study=known.study.name,
        digest=known.digest,
        trained=trained,
        evaluated=tuple(sorted(had.get("evaluated", ()))),
        measured=measured,
        from_round=1 if measured else next(iter(trained), None),
    )


def _models(site: Site, known: KnownStudy, used: Usage) -> Iterator[str]:
    """The models that came after the dataset was first used: that of a round is measured in it.

    What does not travel is no model, and knows the dataset of this study not.
    """
    if used.from_round is None:
        return
    for event in site.log.about(known.digest, "round.task.received"):
        number = event.round or 0
        at = known.study.track(number)
        kind = event.detail.get("kind")
        begins = (kind == "train" and (at.first or number == used.from_round)) or kind == "hold"
        if number >= used.from_round and at.left_out != site.name and not begins:
            yield from (thing.h.removeprefix("sha256:") for thing in event.obj)


def _end_studies(site: Site, name: str, person: str) -> Iterator[str]:
    for known in site.studies.all():
        if known.study.data.dataset != name:
            continue
        if known.state == "approved":
            halt.stop(site, known, person, f'dataset "{name}" was withdrawn')
            yield known.study.name
        else:
            _forget_approvals(site, known)  # it might be proposed, or resumed, again


def _forget_approvals(site: Site, known: KnownStudy) -> None:
    with site.database.transaction():
        site.withdraw_approvals(known.digest, os_user())
        site.release(known.digest)


def _recorded(site: Site, name: str) -> Event | None:
    """The event of a withdrawal that is in force."""
    found = None
    for event in site.log.events():
        about = event.detail.get("dataset") == name
        if about and event.action in ("dataset.registered", "dataset.retired"):
            found = event if event.action == "dataset.retired" else None
    return found


Use = tuple[str, str, int]  # study, what for, round


def _events(site: Site) -> Iterator[Use]:
    for event in site.log.events():
        if event.action in EVENTS and event.study is not None and event.round is not None:
            yield event.study, EVENTS[event.action], event.round


def _ledger(site: Site, name: str) -> Iterator[Use]:
    rows = site.database.execute(
        "SELECT study, round, purpose FROM ledger WHERE dataset = ?", (name,)
    )
    return ((row["study"], PAID[row["purpose"]], row["round"]) for row in rows)


def _replies(site: Site) -> Iterator[Use]:
    rows = site.database.execute("SELECT study, kind, round FROM replies")
    return ((row["study"], USES[row["kind"]], row["round"]) for row in rows if row["kind"] in USES)
