"""What a site's dataset went into: studies, rounds, models, releases, and who downloaded them.

What was learnt from it cannot be taken out of a model again; whoever has one of these models has to
be told.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cohortium.common.audit.events import Event
from cohortium.common.audit.records import records_of
from cohortium.common.errors import CohortiumError, SignatureError, UsageError
from cohortium.server.checkpoints import Checkpoints
from cohortium.server.holding import sent
from cohortium.server.model_file import describe
from cohortium.server.opened import Opened
from cohortium.server.store import StudyRow
from cohortium.server.successor import sha256_of, used


@dataclass(frozen=True)
class Download:
    """A model that left this coordinator: when (RFC 3339), to whom, and the event."""

    at: str
    recipient: str
    event: str


@dataclass(frozen=True)
class Touched:
    """A study whose models know the dataset.

    rounds: in which the site's update was used; from_round: the first of its models that knows the
    dataset is that of this round. models: SHA-256 over the parameters, of those that are still
    here, by round. final: SHA-256 of the model's file. through: the study that it continues.
    """

    study: str
    digest: str
    state: str
    rounds: tuple[int, ...]
    from_round: int
    models: Mapping[int, str]
    final: str
    released_by: str = ""
    released_at: str = ""
    downloads: tuple[Download, ...] = ()
    through: str = ""


@dataclass(frozen=True)
class Traced:
    """Everything that one dataset of a site went into; `withdrawn` is RFC 3339, or empty."""

    dataset: str
    site: str
    withdrawn: str
    event: str
    touched: tuple[Touched, ...]
    evaluated_only: tuple[str, ...] = field(default=())


def trace(opened: Opened, dataset: str, site: str) -> Traced:
    """Follow a dataset of a site through everything that was run here.

    Raises:
        UsageError: no study here asked that site for that dataset.
    """
    rows = [r for r in opened.store.studies() if r.study.data.dataset == dataset]
    rows = [row for row in rows if site in row.study.sites.names]
    if not rows:
        raise UsageError(f'no study here asked {site} for a dataset "{dataset}"')
    found: dict[str, Touched] = {}
    for row in opened.store.studies():
        one = _touched(opened, row, site, found) if row in rows else _heir(opened, row, found)
        if one is not None:
            found[row.digest] = one
    retired = _retired(opened, dataset, site)
    seen = (row for row in rows if row.digest not in found)
    evaluated = tuple(row.study.name for row in seen if _evaluated(opened, row, site))
    at, event = (retired.ts, retired.id) if retired else ("", "")
    return Traced(dataset, site, at, event, tuple(found.values()), evaluated)


def _touched(
    opened: Opened, row: StudyRow, site: str, found: Mapping[str, Touched]
) -> Touched | None:
    rounds = used(row, site, opened.store)
    measured = opened.store.statistics(row.digest) is not None and site in row.study.sites.training
    if rounds or measured:
        return _described(opened, row, rounds, 1 if measured else min(rounds), "")
    return _heir(opened, row, found)


def _heir(opened: Opened, row: StudyRow, found: Mapping[str, Touched]) -> Touched | None:
    """A study that went on from a model that knows the dataset."""
    before = row.study.continues
    origin = found.get(before.study) if before is not None else None
    if before is None or origin is None or before.round < origin.from_round:
        return None
    return _described(opened, row, (), 0, origin.study)


def _described(
    opened: Opened, row: StudyRow, rounds: tuple[int, ...], first: int, through: str
) -> Touched:
    by, at = _release(opened, row)
    return Touched(
        study=row.study.name,
        digest=row.digest,
        state=row.state,
        rounds=rounds,
        from_round=first,
        models=dict(_models(opened, row, first)),
        final=describe(row, opened.store).sha256 if row.state == "completed" else "",
        released_by=by,
        released_at=at,
        downloads=tuple(
            Download(event.ts, event.detail.get("recipient", ""), event.id)
            for event in opened.log.about(row.digest, "model.downloaded")
        ),
        through=through,
    )


def _models(opened: Opened, row: StudyRow, first: int) -> Iterator[tuple[int, str]]:
    checkpoints = Checkpoints(opened.database, row.digest)
    for number in sorted(checkpoints.rounds()):
        if number >= first:
            try:
                yield number, sha256_of(sent(row.study, checkpoints.load(number).model))
            except CohortiumError:
                continue  # it is damaged: nobody uses it


def _release(opened: Opened, row: StudyRow) -> tuple[str, str]:
    try:
        kept = opened.signatures.release(row.digest)
    except SignatureError:
        return "", ""
    return (kept.document.signer.name, kept.document.at) if kept else ("", "")


def _evaluated(opened: Opened, row: StudyRow, site: str) -> bool:
    return any(site in record.evaluations for record in opened.store.rounds(row.digest))


def _retired(opened: Opened, dataset: str, site: str) -> Event | None:
    """The withdrawal that is in force, as the site let it be known."""
    found = None
    for record in records_of(opened.database, "consortium"):
        event = record.event
        about = (event.src.node, event.detail.get("dataset")) == (site, dataset)
        if about and event.action in ("dataset.registered", "dataset.retired"):
            found = event if event.action == "dataset.retired" else None
    return found
