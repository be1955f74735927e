"""An approval is of one study, on one table, by one code, by named persons, for a time."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.asking import Asker
from tests.federation import FULL, approve, make_site, write_study, write_ward

from cohortium.client.approvals import Approval, Facts, approval_of
from cohortium.client.site import Site, open_site
from cohortium.common.audit.events import timestamp
from cohortium.common.errors import RefusedError
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Update
from cohortium.common.study import Study

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FACTS = Facts(code="c" * 64, data="d" * 64)

RULE = """
[[auto_approve]]
name = "small questions"
purposes = ["HMB"]
datasets = ["ward"]
max_epsilon = 3.0
max_rounds = 3
"""


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL)


@pytest.fixture
def site(tmp_path: Path, key: SigningKey) -> Site:
    return make_site(tmp_path / "a", "a", key.public)


def later(site: Site, days: float) -> Site:
    """The same site, so many days from now."""
    return open_site(site.directory.root, lambda: datetime.now(UTC) + timedelta(days=days))


def append(site: Site, text: str) -> None:
    with site.directory.config.open("a", encoding="utf-8") as file:
        file.write(text)


def two_persons(site: Site) -> None:
    text = site.directory.config.read_text()
    site.directory.config.write_text(text.replace("approvals_needed = 1 ", "approvals_needed = 2 "))
    assert site.policy.approvals_needed == 2


# ------------------------------------------------------------------ what it is of


def sign(site: Site, study: Study, name: str = "a", facts: Facts = FACTS) -> Approval:
    """An approval of today that holds for ten days."""
    site.studies.receive(study, 0)
    expires = timestamp(NOW + timedelta(days=10))
    approval = approval_of(study, name, "Dr. Weiss", timestamp(NOW), expires, facts)
    site.approvals.add(approval, site.key)
    return approval


def rule(site: Site, study: Study, facts: Facts = FACTS, now: datetime = NOW) -> str:
    """Why the approvals of a study do not hold; empty if they do."""
    holding = site.approvals.of(study, "a", lambda: facts, now)
    if holding:
        assert site.approvals.require(study, "a", lambda: facts, now, 1) == holding
        return ""
    with pytest.raises(RefusedError, match="the site operator") as caught:
        site.approvals.require(study, "a", lambda: facts, now, 1)
    return caught.value.rule


def test_an_approval_holds_for_what_it_is_of(site: Site, study: Study) -> None:
    sign(site, study)
    assert rule(site, study) == ""


def test_an_approval_ends_at_the_moment_it_expires(site: Site, study: Study) -> None:
    sign(site, study)
    end = NOW + timedelta(days=10)
    assert rule(site, study, now=end - timedelta(seconds=1)) == ""
    assert rule(site, study, now=end) == "approval.expired"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (Facts(code="e" * 64, data="d" * 64), "approval.code"),
        (Facts(code="c" * 64, data="e" * 64), "approval.data"),
        (Facts(code="", data="d" * 64), "approval.code"),
    ],
)
def test_other_code_or_another_table_is_not_what_was_approved(
    site: Site, study: Study, changed: Facts, named: str
) -> None:
    sign(site, study)
    assert rule(site, study, changed) == named


def test_an_approval_for_another_site_does_not_count(site: Site, study: Study) -> None:
    sign(site, study, name="b")
    assert rule(site, study) == "approval.study"


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": 2},
        {"epsilon": 1.0},
        {"columns": ("age",)},
        {"sites": ("a",)},
        {"purpose": "GRU"},
        {"schema_digest": "0" * 64},
        {"leaves": ("evaluated",)},
    ],
)
def test_a_signed_document_that_says_something_else_does_not_count(
    site: Site, study: Study, change: dict[str, object]
) -> None:
    said = sign(site, study)
    site.approvals.add(said.model_copy(update=change), site.key)
    assert rule(site, study) == "approval.study"


def test_an_approval_of_one_study_is_none_of_another(
    site: Site, study: Study, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = write_study(tmp_path / "other", FULL.replace("rounds = 3", "rounds = 2"))
    sign(site, study)
    site.studies.receive(other, 0)
    assert rule(site, other) == "approval.missing"
    (row,) = site.database.execute("SELECT document, signature FROM approvals")
    site.database.execute(
        "INSERT INTO approvals VALUES (?, ?, ?, ?)", (other.digest, "Dr. Weiss", *tuple(row))
    )
    assert rule(site, other) == "approval.study"


# ------------------------------------------------------------------ when it no longer holds


def test_an_expired_approval_stops_a_study_in_the_middle_and_a_new_one_lets_it_go_on(
    key: SigningKey, site: Site, study: Study
) -> None:
    approve(site, study)
    asker = Asker(key, site)
    asker.invite(study)
    asker.train(study, 1)
    site.database.close()
    asker = Asker(key, later(site, 366))
    assert asker.train(study, 2).rule == "approval.expired"
    approve(asker.site, study)
    assert isinstance(asker.train(study, 2).message, Update)


def test_a_changed_table_is_approved_again_before_it_is_trained_on(
    key: SigningKey, site: Site, study: Study
) -> None:
    approve(site, study)
    asker = Asker(key, site)
    asker.invite(study)
    asker.train(study, 1)
    write_ward(site.directory.root / "ward.csv", seed=5)
    assert asker.train(study, 2).rule == "approval.data"
    assert asker.evaluate(study, 1).rule == "approval.data"
    assert asker.invite(study).message.decision == "waiting"
    assert len(site.ledger(study).entries()) == 1
    approve(site, study)
    assert isinstance(asker.train(study, 2).message, Update)


# ------------------------------------------------------------------ who


def test_where_two_are_needed_one_is_not_enough_and_the_same_twice_is_one(
    key: SigningKey, site: Site, study: Study
) -> None:
    two_persons(site)
    asker = Asker(key, site)
    for _ in range(2):
        approve(site, study)
        assert asker.invite(study).message.decision == "waiting"
        site.studies.mark(study.digest, "approved", "")  # as the command line does
        heard = asker.train(study, 1)
        assert heard.rule == "approval.second"
        assert "1 of 2 approvals" in heard.message.explanation
    approve(site, study, "Dr. Adler")
    consent = asker.invite(study).message
    assert consent.approvers == ("Dr. Adler", "Dr. Weiss")
    assert isinstance(asker.train(study, 1).message, Update)


def test_only_those_whom_site_toml_calls_approvers_may_approve(site: Site, study: Study) -> None:
    append(site, '\n[people]\n"Dr. Weiss" = "approver"\n"O. Perator" = "operator"\n')
    site.studies.receive(study, 0)
    for person in ("O. Perator", "Somebody Else", "dr. weiss"):
        with pytest.raises(RefusedError) as caught:
            site.approve(study, person)
        assert caught.value.rule == "people.approver"
        assert caught.value.explanation.endswith("approvers: Dr. Weiss")
    assert site.approve(study, "Dr. Weiss") == 1


def test_without_people_in_site_toml_whoever_runs_the_command_approves(
    site: Site, study: Study
) -> None:
    site.studies.receive(study, 0)
    assert site.approve(study, "O. Perator") == 1


# ------------------------------------------------------------------ by a named rule


def test_a_rule_approves_what_it_covers_and_the_record_names_it(
    key: SigningKey, site: Site, study: Study
) -> None:
    append(site, RULE)
    asker = Asker(key, site)
    for _ in range(2):
        assert asker.invite(study).message.approvers == ("rule: small questions",)
    (event,) = [e for e in site.log.events() if e.action == "study.approved"]
    assert event.detail["person"] == "rule: small questions"
    assert isinstance(asker.train(study, 1).message, Update)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_epsilon = 3.0", "max_epsilon = 2.99"),
        ('datasets = ["ward"]', 'datasets = ["clinic"]'),
        ('purposes = ["HMB"]', 'purposes = ["GRU"]'),
        ("max_rounds = 3", "max_rounds = 2"),
    ],
)
def test_a_rule_approves_nothing_beyond_what_it_says(
    key: SigningKey, site: Site, study: Study, old: str, new: str
) -> None:
    append(site, RULE.replace(old, new))
    assert Asker(key, site).invite(study).message.decision == "waiting"
    assert "study.approved" not in [event.action for event in site.log.events()]


def test_no_rule_approves_a_study_without_privacy(key: SigningKey, tmp_path: Path) -> None:
    site = make_site(tmp_path / "b", "b", key.public, policy={"allow_unprotected": "true"})
    append(site, RULE)
    bare = '[training]\nrounds = 3\nbatches = "full"\n[privacy]\nmechanism = "none"\n'
    (tmp_path / "bare").mkdir()
    heard = Asker(key, site).invite(write_study(tmp_path / "bare", bare))
    assert heard.message.decision == "waiting"


def test_a_rule_is_one_voice_of_two(key: SigningKey, site: Site, study: Study) -> None:
    append(site, RULE)
    two_persons(site)
    asker = Asker(key, site)
    assert asker.invite(study).message.decision == "waiting"
    approve(site, study)
    assert asker.invite(study).message.decision == "approved"


# ------------------------------------------------------------------ before anybody approved


def missing(table: Path) -> None:
    table.unlink()


def garbage(table: Path) -> None:
    table.write_bytes(b"\xff\x00\xfe" * 100)


def directory(table: Path) -> None:
    table.unlink()
    table.mkdir()


@pytest.mark.parametrize("spoil", [missing, garbage, directory])
def test_before_anybody_approved_nothing_opens_the_table(
    key: SigningKey, site: Site, study: Study, spoil: Callable[[Path], None]
) -> None:
    spoil(site.directory.root / "ward.csv")
    asker = Asker(key, site)
    assert asker.invite(study).message.decision == "waiting"
    assert asker.train(study, 1).rule == "study.waiting"


def test_what_is_approved_are_the_facts_of_this_installation(site: Site, study: Study) -> None:
    facts = site.facts(study)
    site.studies.receive(study, 0)
    said = site.sign(study, "Dr. Weiss")
    assert (said.code, said.data) == dataclasses.astuple(facts)
    assert datetime.fromisoformat(said.expires) - datetime.fromisoformat(said.at) == timedelta(365)
