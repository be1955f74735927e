"""A study that ended before its time may go on where it was; one that is over never does."""

from pathlib import Path

import pytest
from tests.asking import Asker
from tests.federation import FULL, approve, make_site, write_study, write_ward

from cohortium.client import halt
from cohortium.client.site import Site
from cohortium.common.cli import main
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Close, Update
from cohortium.common.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL)


@pytest.fixture
def asker(tmp_path: Path, study: Study) -> Asker:
    """At a site with room for one study of epsilon 3, one of whose three rounds is answered."""
    key = SigningKey.generate()
    asker = Asker(key, make_site(tmp_path / "a", "a", key.public, epsilon_cap=4.0))
    approve(asker.site, study)
    assert asker.invite(study).message.decision == "approved"
    assert isinstance(asker.train(study, 1).message, Update)
    return asker


def end(asker: Asker, study: Study, outcome: str) -> None:
    assert asker.ask(study, Close(outcome=outcome)).rule == ""


def state(site: Site, study: Study) -> str:
    return site.studies.by_digest(study.digest).state


def spent(site: Site, study: Study) -> list[int]:
    return [entry.round for entry in site.ledger(study).entries()]


def site_command(site: Site, *arguments: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["site", *arguments, "--as", "Dr. Weiss", "--dir", str(site.directory.root)])


@pytest.mark.parametrize("outcome", ["failed", "stopped"])
def test_a_study_that_the_coordinator_ended_goes_on_with_what_is_left_of_its_plan(
    asker: Asker, study: Study, outcome: str
) -> None:
    first = asker.train(study, 1)
    end(asker, study, outcome)
    assert state(asker.site, study) == "ended"
    assert asker.site.ledger(study).reserved() == {}
    assert asker.train(study, 2).rule == "study.ended"  # not before it is proposed again
    assert asker.invite(study).message.decision == "approved"
    assert state(asker.site, study) == "approved"
    assert asker.site.ledger(study).reserved()[study.digest][0].steps == 2
    assert asker.train(study, 1).body == first.body
    assert asker.train(study, 1, scale=2.0).rule == "round.changed"
    for round in (2, 3):
        assert isinstance(asker.train(study, round).message, Update)
    assert spent(asker.site, study) == [1, 2, 3]
    assert asker.site.ledger(study).balance().epsilon_spent == pytest.approx(3.0, rel=1e-3)


def test_a_study_may_end_and_go_on_many_times_without_costing_more(
    asker: Asker, study: Study
) -> None:
    for round in (2, 3):
        end(asker, study, "failed")
        assert asker.invite(study).message.decision == "approved"
        assert isinstance(asker.train(study, round).message, Update)
    end(asker, study, "completed")
    assert asker.invite(study).rule == "study.ended"
    assert spent(asker.site, study) == [1, 2, 3]


def test_a_farewell_that_comes_twice_with_another_outcome_counts_as_the_last_one(
    asker: Asker, study: Study
) -> None:
    end(asker, study, "failed")
    end(asker, study, "completed")
    assert asker.invite(study).rule == "study.ended"
    end(asker, study, "failed")  # what is over stays over
    assert asker.invite(study).rule == "study.ended"


def test_a_study_goes_on_only_if_its_approval_still_holds(asker: Asker, study: Study) -> None:
    end(asker, study, "failed")
    write_ward(asker.site.directory.root / "ward.csv", seed=5)
    assert asker.invite(study).message.decision == "waiting"
    assert state(asker.site, study) == "waiting"
    assert asker.train(study, 2).rule == "study.waiting"
    assert asker.site.ledger(study).reserved() == {}
    site_command(asker.site, "approve", study.name)
    assert asker.invite(study).message.decision == "approved"
    assert isinstance(asker.train(study, 2).message, Update)
    assert spent(asker.site, study) == [1, 2]


def test_a_study_goes_on_only_if_nobody_took_its_privacy_meanwhile(
    asker: Asker, study: Study, tmp_path: Path
) -> None:
    """Of epsilon 4 it had spent some; the other study's 3 leave no room for the rest of its 3."""
    end(asker, study, "failed")
    (tmp_path / "other").mkdir()
    other = write_study(tmp_path / "other", FULL, name="other-study")
    approve(asker.site, other)
    assert asker.invite(other).message.decision == "approved"
    assert asker.invite(study).rule == "privacy.cap"
    assert state(asker.site, study) == "ended"
    end(asker, other, "failed")
    assert asker.invite(study).message.decision == "approved"


def test_what_this_site_stopped_goes_on_only_after_a_person_approves_it_again(
    asker: Asker, study: Study
) -> None:
    halt.stop(asker.site, asker.site.studies.by_digest(study.digest), "Dr. Weiss")
    for _ in range(2):
        assert asker.invite(study).rule == "study.stopped"
        end(asker, study, "failed")  # the coordinator's word does not undo the site's own
    site_command(asker.site, "approve", study.name)
    assert asker.invite(study).message.decision == "approved"
    assert isinstance(asker.train(study, 2).message, Update)
    assert spent(asker.site, study) == [1, 2]


def test_what_this_site_rejected_goes_on_only_after_a_person_approves_it_again(
    asker: Asker, study: Study
) -> None:
    site_command(asker.site, "reject", study.name)
    assert asker.invite(study).rule == "study.rejected"
    site_command(asker.site, "approve", study.name)
    assert asker.invite(study).message.decision == "approved"
    assert isinstance(asker.train(study, 2).message, Update)


def test_a_study_that_failed_can_be_stopped_here_so_that_it_does_not_come_back(
    asker: Asker, study: Study
) -> None:
    end(asker, study, "failed")
    site_command(asker.site, "stop", study.name)
    assert asker.invite(study).rule == "study.stopped"


def test_a_completed_study_can_be_neither_approved_nor_stopped_nor_rejected(
    asker: Asker, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    end(asker, study, "completed")
    for command in ("approve", "stop", "reject"):
        with pytest.raises(SystemExit, match="2"):
            main(["site", command, study.name, "--as", "Dr. Weiss", "--dir", root(asker)])
        assert "is over (completed)" in capsys.readouterr().err


def root(asker: Asker) -> str:
    return str(asker.site.directory.root)
