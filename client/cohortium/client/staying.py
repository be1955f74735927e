"""What a round makes that stays here: a function that keeps it, for the reply's transaction.

Kept with the reply or not at all: a round asked for twice makes nothing twice, and one that was
interrupted is made anew from what the round before had left.
"""

from collections.abc import Callable

from cohortium.client import final_model
from cohortium.client.held import Held
from cohortium.client.personal_models import PersonalModels
from cohortium.client.results import Evaluation, KeptResults
from cohortium.client.site import Site
from cohortium.common.messages import EMPTY, Vector
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.common.tracks import Track

Keep = Callable[[], None]


def nothing() -> None:
    """Keeps nothing."""


def both(first: Keep, second: Keep) -> Keep:
    """Keeps what both keep."""

    def keep() -> None:
        first()
        second()

    return keep


def train_personal(
    site: Site, study: Study, statistics: Statistics | None, start: Vector, at: Track
) -> Keep:
    """Ditto: beside a round of the main model, which starts from `start`, one of this site's."""
    if study.mitigation.ditto is None or not at.main:
        return nothing
    models = PersonalModels(site.database)
    before = models.of(study.digest)
    before = before if len(before) else start
    after = site.workshop.personalise(study, statistics, start, before, at.round)
    return lambda: models.keep(study.digest, at.round, after)


def train_own(site: Site, study: Study, delta: Vector) -> Keep:
    """What is this site's own, after a round that changed what is held by `delta` (held,)."""
    if not study.transfer.own:
        return nothing
    return lambda: Held(site.database).move(study.digest, delta)


def personal(site: Site, study: Study, at: Track) -> Vector:
    """This site's personal model, for the last evaluation of the main model; else empty."""
    if study.mitigation.ditto is None or not at.final:
        return EMPTY
    return PersonalModels(site.database).of(study.digest)


def results(site: Site, study: Study, found: Evaluation) -> Keep:
    """What the last evaluation says to the site alone."""
    stays = found.stays
    if stays is None:
        return nothing
    return lambda: KeptResults(site.database).keep(study.digest, stays, site.now_ms())


def let_go(site: Site, study: Study) -> None:
    """A study has ended: whoever goes on with it sends what is held again, unless it is our own."""
    if not study.transfer.own:
        Held(site.database).forget(study.digest)


def forget(site: Site, study: str) -> None:
    """Drop what a study (by digest) made here, inside the caller's transaction."""
    PersonalModels(site.database).forget(study)
    KeptResults(site.database).forget(study)
    Held(site.database).forget(study)
    final_model.forget(site.directory.root, study)
