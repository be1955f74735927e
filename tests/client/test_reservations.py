"""A study's privacy is set aside before it runs, paid round by round, and given back at its end."""

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from tests.asking import Asker
from tests.federation import FULL, approve, make_site, write_study

from cohortium.client import halt, replies, rounds
from cohortium.client.site import Site, open_site
from cohortium.common.cli import main
from cohortium.common.database import Database
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Close, Update
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.plan import planned
from cohortium.common.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL)


@pytest.fixture
def asker(tmp_path: Path) -> Asker:
    """At a site with room for one study of epsilon 3, and not for two."""
    key = SigningKey.generate()
    return Asker(key, make_site(tmp_path / "a", "a", key.public, epsilon_cap=4.0))


def other_study(tmp_path: Path) -> Study:
    (tmp_path / "other").mkdir()
    return write_study(tmp_path / "other", FULL, name="other-study")


def begin(asker: Asker, study: Study) -> str:
    """Approve and invite; returns the site's decision, or the rule by which it refused."""
    approve(asker.site, study)
    heard = asker.invite(study)
    return heard.rule or str(heard.message.decision)


def actions(site: Site) -> list[str]:
    return [event.action for event in site.log.events()]


def plan_of(study: Study, rounds: int) -> Mechanism:
    plan = planned(study, rounds)
    assert plan is not None
    return plan


def test_approval_sets_the_whole_plan_aside_once_and_spends_nothing(
    asker: Asker, study: Study
) -> None:
    ledger = asker.site.ledger(study)
    asker.invite(study)
    assert ledger.reserved() == {}  # nobody has approved
    for _ in range(2):
        assert begin(asker, study) == "approved"
    assert ledger.reserved() == {study.digest: (plan_of(study, 3),)}
    assert ledger.entries() == []
    balance = ledger.balance()
    assert balance.epsilon_spent == 0.0
    assert balance.epsilon_reserved == pytest.approx(3.0, rel=1e-3)
    assert actions(asker.site).count("privacy.reserved") == 1


def test_a_round_asked_for_before_the_invitation_is_repeated_sets_the_plan_aside_first(
    asker: Asker, study: Study
) -> None:
    approve(asker.site, study)
    asker.site.studies.mark(study.digest, "approved", "")
    assert isinstance(asker.train(study, 1).message, Update)
    held = asker.site.ledger(study).reserved()
    assert held == {study.digest: (plan_of(study, 2),)}


def test_what_a_round_spends_comes_off_its_own_reservation(asker: Asker, study: Study) -> None:
    begin(asker, study)
    before = asker.site.ledger(study).balance().epsilon_reserved
    for round in (1, 2, 3):
        assert isinstance(asker.train(study, round).message, Update)
        assert asker.site.ledger(study).reserved()[study.digest][0].steps == 3 - round
    balance = asker.site.ledger(study).balance()
    assert balance.epsilon_spent == balance.epsilon_reserved == pytest.approx(before, rel=1e-9)


def test_two_studies_approved_at_once_cannot_overspend(
    asker: Asker, study: Study, tmp_path: Path
) -> None:
    other = other_study(tmp_path)
    approve(asker.site, other)
    assert begin(asker, study) == "approved"
    assert begin(asker, other) == "privacy.cap"
    asker.site.studies.mark(other.digest, "approved", "")  # as the command line does
    for round in (1, 2, 3):  # by turns: the one with the reservation gets all that it was promised
        asker.train(other, round)
        assert isinstance(asker.train(study, round).message, Update)
    ledger = asker.site.ledger(study)
    assert [e.round for e in ledger.entries() if e.study == study.digest] == [1, 2, 3]
    assert ledger.balance().epsilon_spent <= 4.0


def by_close(asker: Asker, study: Study) -> None:
    asker.ask(study, Close(outcome="completed"))


def by_stop(asker: Asker, study: Study) -> None:
    halt.stop(asker.site, asker.site.studies.by_digest(study.digest), "Dr. Weiss")


def by_rejection(asker: Asker, study: Study) -> None:
    root = str(asker.site.directory.root)
    with pytest.raises(SystemExit, match="0"):
        main(["site", "reject", study.name, "--as", "Dr. Weiss", "--dir", root])


@pytest.mark.parametrize("end", [by_close, by_stop, by_rejection])
def test_what_a_study_did_not_spend_goes_back_when_it_ends(
    asker: Asker, study: Study, tmp_path: Path, end: Callable[[Asker, Study], None]
) -> None:
    begin(asker, study)
    asker.train(study, 1)
    for _ in range(2):
        end(asker, study)
    ledger = asker.site.ledger(study)
    assert ledger.reserved() == {}
    assert [entry.round for entry in ledger.entries()] == [1]  # what was given stays given
    balance = ledger.balance()
    assert 0 < balance.epsilon_spent == balance.epsilon_reserved < 3.0
    assert actions(asker.site).count("privacy.released") == 1
    assert asker.train(study, 2).rule.startswith("study.")
    assert begin(asker, other_study(tmp_path)) == "approved"  # there is room again


def test_a_study_rejected_and_approved_again_holds_only_what_it_may_still_spend(
    tmp_path: Path, study: Study
) -> None:
    key = SigningKey.generate()
    asker = Asker(key, make_site(tmp_path / "a", "a", key.public))
    begin(asker, study)
    asker.train(study, 1)
    by_rejection(asker, study)
    asker.site.studies.mark(study.digest, "approved", "")  # as `site approve` does
    assert begin(asker, study) == "approved"
    assert asker.site.ledger(study).reserved()[study.digest][0].steps == 2


def test_a_reservation_survives_reopening(asker: Asker, study: Study, tmp_path: Path) -> None:
    begin(asker, study)
    asker.train(study, 1)
    held = asker.site.ledger(study).reserved()
    asker.site.database.close()
    again = Asker(asker.key, open_site(asker.site.directory.root))
    assert again.site.ledger(study).reserved() == held
    assert held[study.digest][0].steps == 2
    assert begin(again, other_study(tmp_path)) == "privacy.cap"


# ------------------------------------------------------------------ kills


class Killed(BaseException):
    """What a kill looks like from inside: nothing may catch it."""


class Mortal:
    """Executes so many statements and then none, not even a rollback, as after `kill -9`."""

    def __init__(self, database: Database, statements: int) -> None:
        self._execute = database.execute
        self._statements = statements
        self.done = 0

    def __call__(
        self, sql: str, parameters: Sequence[str | int | float | bytes | None] = ()
    ) -> list[sqlite3.Row]:
        if self.done == self._statements:
            raise Killed
        self.done += 1
        return self._execute(sql, parameters)


def killed(*_: object) -> NoReturn:
    raise Killed


def train_and_die(asker: Asker, study: Study, statements: int) -> int:
    """Ask for round 1 of a site that dies after so many statements, or before it seals its reply.

    Returns how many it executed.
    """
    mortal = Mortal(asker.site.database, statements)
    with pytest.MonkeyPatch.context() as during:
        during.setattr(asker.site.database, "execute", mortal)
        during.setattr(rounds, "seal", killed)
        with pytest.raises(Killed):
            asker.train(study, 1)
    asker.site.database.close()
    return mortal.done


def test_a_kill_at_any_step_of_a_round_neither_loses_a_spend_nor_pays_twice(
    asker: Asker, study: Study, tmp_path: Path
) -> None:
    begin(asker, study)
    asker.site.database.close()

    def copy(name: str) -> Asker:
        shutil.copytree(asker.site.directory.root, tmp_path / name)
        return Asker(asker.key, open_site(tmp_path / name))

    statements = train_and_die(copy("whole"), study, 10**6)
    assert statements > 10
    paid = []
    for step in range(statements + 1):
        train_and_die(copy(f"at-{step}"), study, step)
        again = Asker(asker.key, open_site(tmp_path / f"at-{step}"))
        paid.append(len(again.site.ledger(study).entries()))
        kept = [row["body"] for row in again.site.database.execute("SELECT body FROM replies")]
        assert len(kept) == actions(again.site).count("privacy.spent") == paid[-1]
        first, second = again.train(study, 1), again.train(study, 1)
        assert isinstance(first.message, Update)
        assert [first.body, *kept] == [second.body] * (1 + len(kept))
        assert [entry.round for entry in again.site.ledger(study).entries()] == [1]
        assert actions(again.site).count("privacy.spent") == 1
        for round in (2, 3):
            again.train(study, round)
        steps = [entry.mechanism.steps for entry in again.site.ledger(study).entries()]
        assert sum(steps) == plan_of(study, 3).steps == 3
        assert len(again.site.database.execute("SELECT * FROM replies")) == 2  # the last two rounds
        again.site.database.close()
    assert paid == sorted(paid)  # nothing is paid before the commit, and all is paid after it
    assert set(paid) == {0, 1}


def test_a_large_reply_is_kept_in_parts_and_comes_back_whole(
    asker: Asker, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve(asker.site, study)
    asker.invite(study)
    monkeypatch.setattr(replies, "PART_BYTES", 100)
    first = asker.train(study, 1)
    count = "SELECT count(*) FROM reply_parts"
    assert asker.site.database.execute(count)[0][0] > 0
    assert asker.train(study, 1).body == first.body
    monkeypatch.setattr(replies, "PART_BYTES", 2**20)
    asker.train(study, 2)
    asker.train(study, 3)
    assert asker.site.database.execute(count)[0][0] == 0  # gone with the reply they belong to
