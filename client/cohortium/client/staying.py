"""What a round makes that stays here: a function that keeps it, for the reply's transaction.

Kept with the reply or not at all: a round asked for twice makes nothing twice, and one that was
interrupted is made anew from what the round before had left.
"""

from collections.abc import Callable

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


def personal(site: Site, study: Study, at: Track) -> Vector:
    """This site's personal model, for the last evaluation of the main model; else empty."""
    return PersonalModels(site.database).of(study.digest) if at.final else EMPTY


def results(site: Site, study: Study, found: Evaluation) -> Keep:
    """What the last evaluation says to the site alone."""
    stays = found.stays
    if stays is None:
        return nothing
    return lambda: KeptResults(site.database).keep(study.digest, stays, site.now_ms())


def forget(site: Site, study: str) -> None:
    """Drop what a study (by digest) made here, inside the caller's transaction."""
    PersonalModels(site.database).forget(study)
    KeptResults(site.database).forget(study)
    Held(site.database).forget(study)
