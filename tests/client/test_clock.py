"""A clock that jumps: an approval is dated by it, so a wrong one trains nothing, and it passes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.asking import Asker
from tests.federation import FULL, approve, make_site, write_study

from cohortium.client import halt
from cohortium.client.site import open_site
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Evaluated, Update
from cohortium.common.study import Study
from cohortium.server.desk import for_good

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


class Watch:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL)


@pytest.fixture
def asker(tmp_path: Path, study: Study, watch: Watch) -> Asker:
    """At a site that has approved the study and answered its first round at noon."""
    key = SigningKey.generate()
    made = make_site(tmp_path / "a", "a", key.public)
    made.database.close()
    site = open_site(made.directory.root, watch)
    approve(site, study)
    asker = Asker(key, site)
    assert asker.invite(study).message.decision == "approved"
    assert isinstance(asker.train(study, 1).message, Update)
    return asker


def spent(asker: Asker, study: Study) -> list[int]:
    return [entry.round for entry in asker.site.ledger(study).entries()]


def test_a_clock_that_goes_back_trains_nothing_until_it_is_right_again(
    asker: Asker, study: Study, watch: Watch
) -> None:
    watch.now = NOON - 30 * DAY
    for heard in (asker.train(study, 2), asker.evaluate(study, 1), asker.invite(study)):
        assert heard.rule == "site.clock"
        assert not for_good(f"{heard.rule}: ")
        assert "43200 minutes behind" in heard.message.explanation
    assert asker.train(study, 2).rule == "site.clock"  # refusals dated before do not make it right
    assert spent(asker, study) == [1]
    watch.now = NOON + MINUTE
    assert isinstance(asker.train(study, 2).message, Update)
    assert spent(asker, study) == [1, 2]


def test_a_clock_that_is_corrected_by_minutes_stops_nothing(
    asker: Asker, study: Study, watch: Watch
) -> None:
    watch.now = NOON - 5 * MINUTE
    assert isinstance(asker.train(study, 2).message, Update)
    watch.now = NOON - 6 * MINUTE
    assert asker.train(study, 3).rule == "site.clock"


def test_a_site_started_again_with_an_old_clock_remembers_what_time_it_was(
    asker: Asker, study: Study
) -> None:
    """As after an empty CMOS battery: the machine believes that it is 1970."""
    asker.site.database.close()
    again = Asker(asker.key, open_site(asker.site.directory.root, lambda: NOON - 10_000 * DAY))
    assert again.train(study, 2).rule == "site.clock"


def test_an_expired_approval_does_not_hold_again_by_a_clock_set_back(
    asker: Asker, study: Study, watch: Watch
) -> None:
    watch.now = NOON + 364 * DAY
    assert isinstance(asker.train(study, 2).message, Update)
    watch.now = NOON + 366 * DAY
    assert asker.train(study, 3).rule == "approval.expired"
    watch.now = NOON + 300 * DAY
    assert asker.train(study, 3).rule == "site.clock"


def test_a_clock_that_jumps_ahead_only_pauses_a_study(
    asker: Asker, study: Study, watch: Watch
) -> None:
    watch.now = NOON + 4000 * DAY
    heard = asker.train(study, 2)
    assert heard.rule == "approval.expired"
    assert not for_good(f"{heard.rule}: ")
    assert asker.invite(study).message.decision == "waiting"
    watch.now = NOON + MINUTE
    assert isinstance(asker.train(study, 2).message, Update)
    assert isinstance(asker.evaluate(study, 2).message, Evaluated)
    assert spent(asker, study) == [1, 2]


def test_after_rounds_by_a_clock_that_was_ahead_a_person_says_which_time_is_right(
    asker: Asker, study: Study, watch: Watch
) -> None:
    watch.now = NOON + 10 * DAY
    assert isinstance(asker.train(study, 2).message, Update)
    watch.now = NOON + MINUTE
    assert asker.train(study, 3).rule == "site.clock"
    halt.resume(asker.site, "Dr. Weiss")
    assert isinstance(asker.train(study, 3).message, Update)


def test_an_approval_signed_by_a_clock_that_was_ahead_can_be_signed_again(
    asker: Asker, study: Study, watch: Watch
) -> None:
    watch.now = NOON + 4000 * DAY
    asker.site.approve(study, "Dr. Weiss")
    assert isinstance(asker.train(study, 2).message, Update)
    watch.now = NOON + MINUTE
    assert asker.train(study, 3).rule == "site.clock"
    asker.site.approve(study, "Dr. Weiss")
    assert isinstance(asker.train(study, 3).message, Update)
