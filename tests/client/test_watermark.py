"""A database from an old backup has forgotten what was spent: the mark beside it has not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.asking import Asker
from tests.federation import FULL, PLAIN, approve, make_site, write_study

from cohortium.client import halt, lost
from cohortium.client import watermark as watermarks
from cohortium.client.daemon import run
from cohortium.client.site import Site, open_site
from cohortium.client.watermark import LostRecords
from cohortium.common.cli import main
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Consent, Update
from cohortium.common.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL)


@pytest.fixture
def asker(tmp_path: Path, study: Study) -> Asker:
    """At a site that has approved the study and answered its first round."""
    key = SigningKey.generate()
    asker = begun(Asker(key, make_site(tmp_path / "a", "a", key.public)), study)
    assert isinstance(asker.train(study, 1).message, Update)
    return asker


def begun(asker: Asker, study: Study) -> Asker:
    approve(asker.site, study)
    assert asker.invite(study).message.decision == "approved"
    return asker


def backup(asker: Asker, name: str = "site.db") -> Path:
    """A copy of the database, taken while nobody writes."""
    path = asker.site.directory.root / f"{name}.backup"
    shutil.copy(asker.site.directory.database, path)
    return path


def restored(asker: Asker, backup: Path) -> Asker:
    """The site after somebody put an old database back and started it again."""
    asker.site.database.close()
    shutil.copy(backup, asker.site.directory.database)
    return reopened(asker)


def reopened(asker: Asker) -> Asker:
    asker.site.database.close()
    return Asker(asker.key, open_site(asker.site.directory.root))


def steps(site: Site, study: Study) -> int:
    return sum(entry.mechanism.steps for entry in site.ledger(study).entries())


def site_command(site: Site, *arguments: str) -> None:
    main(["site", *arguments, "--dir", str(site.directory.root)])


def test_an_old_backup_trains_nothing_and_says_what_it_lacks(
    asker: Asker, study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    old = backup(asker)
    asker.train(study, 2)
    asker.train(study, 3)
    again = restored(asker, old)
    for heard in (again.train(study, 2), again.train(study, 1), again.evaluate(study, 1)):
        assert heard.rule == "site.database"
        assert "site.db" not in heard.message.explanation
    assert again.invite(study).rule == "site.database"
    assert steps(again.site, study) == 1
    assert "lacks 2 of 3 rows of the privacy ledger and 6 of 11 events" in caplog.text
    assert "`cohortium site accept-loss --as PERSON`" in caplog.text


def test_a_daemon_does_not_start_on_an_old_backup(asker: Asker, study: Study) -> None:
    old = backup(asker)
    asker.train(study, 2)
    site = restored(asker, old).site
    site.database.close()
    with pytest.raises(LostRecords, match="lacks 1 of 2 rows") as caught:
        run(site.directory.root, lambda state: None)
    assert caught.value.exit_code == 1


def test_refusals_after_a_restore_do_not_fill_the_gap(asker: Asker, study: Study) -> None:
    """Every refusal is an event: their number passes that of the mark, they are other ones."""
    old = backup(asker)
    asker.train(study, 2)
    again = restored(asker, old)
    for _ in range(10):
        assert again.train(study, 2).rule == "site.database"


def test_only_the_kill_switch_works_on_an_old_backup(
    asker: Asker, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    old = backup(asker)
    asker.train(study, 2)
    again = restored(asker, old)
    for arguments in (("studies",), ("budget",), ("approve", study.name, "--as", "Dr. Weiss")):
        with pytest.raises(SystemExit, match="1"):
            site_command(again.site, *arguments)
        assert "lacks 1 of 2 rows of the privacy ledger" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        site_command(again.site, "stop", study.name, "--as", "Dr. Weiss")


def test_a_database_that_is_gone_is_not_begun_anew(asker: Asker, study: Study) -> None:
    asker.site.database.close()
    asker.site.directory.database.unlink()
    with pytest.raises(LostRecords, match="lacks 1 of 1 rows"):
        open_site(asker.site.directory.root).watermark.check()


def test_a_database_replaced_under_a_running_daemon_is_noticed(asker: Asker, study: Study) -> None:
    old = backup(asker)
    asker.train(study, 2)
    old.rename(asker.site.directory.database)  # what it writes now, nobody will ever read
    assert asker.train(study, 3).rule == "site.database"
    with pytest.raises(LostRecords, match="was replaced or removed while it was open"):
        asker.site.watermark.check()


def test_a_database_overwritten_under_a_running_daemon_is_noticed(
    asker: Asker, study: Study
) -> None:
    old = backup(asker)
    asker.train(study, 2)
    shutil.copy(old, asker.site.directory.database)
    assert asker.train(study, 2).rule == "site.database"


def test_a_site_of_an_older_program_gets_its_mark_at_its_first_answer(
    asker: Asker, study: Study
) -> None:
    asker.site.directory.mark.unlink()
    again = reopened(asker)
    assert isinstance(again.train(study, 2).message, Update)
    assert b'"ledger":2' in again.site.directory.mark.read_bytes()


def test_an_old_backup_does_not_bring_a_stopped_study_back(asker: Asker, study: Study) -> None:
    old = backup(asker)
    halt.stop(asker.site, asker.site.studies.by_digest(study.digest), "Dr. Weiss")
    assert restored(asker, old).train(study, 2).rule == "site.database"


# ------------------------------------------------------------------ kills


class Killed(BaseException):
    """What a kill looks like from inside: nothing may catch it."""


def dies_marking(asker: Asker, study: Study, round: int, place: str) -> None:
    """Ask for a round of a site that is killed after its commit, in the midst of its mark."""

    def killed(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as during:
        if place == "before":
            during.setattr(watermarks, "write_whole", killed)
        else:
            during.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            asker.train(study, round)
    asker.site.database.close()


@pytest.mark.parametrize("place", ["before", "within"])
def test_a_kill_between_commit_and_mark_leaves_a_site_that_goes_on(
    asker: Asker, study: Study, place: str
) -> None:
    dies_marking(asker, study, 2, place)
    again = reopened(asker)
    assert steps(again.site, study) == 2
    first, second = again.train(study, 2), again.train(study, 2)
    assert isinstance(first.message, Update)
    assert first.body == second.body
    assert steps(again.site, study) == 2


def test_a_row_whose_update_left_is_missed_even_if_the_site_was_killed_before(
    asker: Asker, study: Study
) -> None:
    """The mark is behind after the kill, and level again before the stored reply leaves."""
    old = backup(asker)
    dies_marking(asker, study, 2, "before")
    again = reopened(asker)
    assert isinstance(again.train(study, 2).message, Update)
    assert restored(again, old).train(study, 2).rule == "site.database"


# ------------------------------------------------------------------ the way out


def accepted(asker: Asker, times: int = 1) -> Asker:
    for _ in range(times):
        with pytest.raises(SystemExit, match="0"):
            site_command(asker.site, "accept-loss", "--as", "Dr. Weiss")
    return reopened(asker)


def test_what_was_lost_counts_as_spent_once_it_is_accepted(asker: Asker, study: Study) -> None:
    old = backup(asker)
    asker.train(study, 2)
    before = asker.site.ledger(study).balance()
    again = accepted(restored(asker, old), times=2)
    balance = again.site.ledger(study).balance()
    assert balance.epsilon_spent == before.epsilon_spent
    assert [entry.round for entry in again.site.ledger(study).entries()] == [1, 0]
    assert again.site.ledger(study).reserved() == {}
    assert again.site.studies.by_digest(study.digest).state == "stopped"
    assert again.train(study, 2).rule == "study.stopped"
    actions = [(e.action, e.detail.get("by")) for e in again.site.log.events()]
    assert actions.count(("privacy.spent", "Dr. Weiss")) == 1
    assert [action for action, _ in actions].count("log.review") == 1


def test_a_study_goes_on_after_a_loss_only_as_far_as_its_plan_still_allows(
    asker: Asker, study: Study
) -> None:
    """Three rounds were approved. Round 2 was lost and is counted, so only one more is left."""
    old = backup(asker)
    asker.train(study, 2)
    again = accepted(restored(asker, old))
    site_state = again.invite(study).rule
    assert site_state == "study.stopped"
    with pytest.raises(SystemExit, match="0"):
        site_command(again.site, "approve", study.name, "--as", "Dr. Weiss")
    assert again.invite(study).message.decision == "approved"
    assert isinstance(again.train(study, 2).message, Update)
    assert again.train(study, 3).rule == "privacy.study"
    assert steps(again.site, study) == 3


def test_a_study_that_began_after_the_backup_is_charged_too(
    asker: Asker, study: Study, tmp_path: Path
) -> None:
    old = backup(asker)
    (tmp_path / "later").mkdir()
    later = write_study(tmp_path / "later", FULL, name="later-study")
    begun(asker, later)
    asker.train(later, 1)
    before = asker.site.ledger(study).balance().epsilon_spent
    again = accepted(restored(asker, old))
    assert again.site.ledger(study).balance().epsilon_spent == before
    assert again.train(later, 2).rule == "study.unknown"


def test_a_lost_mark_that_cannot_be_read_charges_all_that_was_set_aside(
    asker: Asker, study: Study
) -> None:
    asker.site.directory.mark.write_text('{"v":1,"led')
    again = reopened(asker)
    assert again.train(study, 2).rule == "site.database"
    again = accepted(again)
    assert steps(again.site, study) == 3  # all three rounds
    assert again.site.ledger(study).reserved() == {}
    again.site.watermark.check()


def test_a_kill_while_a_loss_is_accepted_charges_it_once(asker: Asker, study: Study) -> None:
    old = backup(asker)
    asker.train(study, 2)
    again = restored(asker, old)

    def killed(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as during:
        during.setattr(watermarks, "write_whole", killed)
        with pytest.raises(Killed):
            lost.accept(again.site, "Dr. Weiss")
    again = reopened(again)
    assert again.train(study, 2).rule.startswith(("site.database", "study.stopped"))
    again = accepted(again)
    assert steps(again.site, study) == 2
    again.site.watermark.check()


def test_accepting_a_loss_where_nothing_is_lost_changes_nothing(
    asker: Asker, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    before = asker.site.log.head()
    again = accepted(asker)
    assert "nothing is lost" in capsys.readouterr().out
    assert again.site.log.head() == before
    assert isinstance(again.train(study, 2).message, Update)


def plain_rounds(asker: Asker, place: Path) -> None:
    """A study without privacy: its replies and events count, too."""
    study = write_study(place, PLAIN)
    begun(asker, study)
    asker.train(study, 1)


def private_rounds(asker: Asker, place: Path) -> None:
    study = write_study(place, FULL)
    begun(asker, study)
    asker.train(study, 1)


@pytest.mark.parametrize("work", [plain_rounds, private_rounds])
def test_a_backup_from_before_any_answer_is_noticed(
    tmp_path: Path, work: Callable[[Asker, Path], None]
) -> None:
    key = SigningKey.generate()
    allowed = {"allow_unprotected": "true"}
    asker = Asker(key, make_site(tmp_path / "a", "a", key.public, policy=allowed))
    old = backup(asker)
    work(asker, tmp_path)
    with pytest.raises(LostRecords):
        restored(asker, old).site.watermark.check()


def test_a_whole_site_restored_with_its_mark_cannot_know(asker: Asker, study: Study) -> None:
    """What remains, as docs/threat-model.md says: here nothing else remembers."""
    root = asker.site.directory.root
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    asker.train(study, 2)
    asker.site.database.close()
    shutil.rmtree(root)
    copy.rename(root)
    assert isinstance(reopened(asker).invite(study).message, Consent)
