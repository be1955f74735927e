"""What a coordinator, a stranger or a crash could try at a site's one entry."""

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.asking import Asker
from tests.federation import (
    COORDINATOR,
    FULL,
    PLAIN,
    approve,
    federate,
    make_site,
    write_study,
    write_ward,
)

from cohortium.client import local_round, rounds
from cohortium.client.approvals import Approval
from cohortium.client.budget import Ledger
from cohortium.client.site import Site, open_site
from cohortium.client.workshop import Inline
from cohortium.common.document import parse_json
from cohortium.common.envelope import Header, unseal
from cohortium.common.identity import SigningKey
from cohortium.common.messages import (
    Close,
    Consent,
    Evaluated,
    Invite,
    Measure,
    Refusal,
    Train,
    Update,
    kind_of,
    pack,
)
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.server.coordinator import initial_model, run_study


def inline(site: Site) -> Inline:
    assert isinstance(site.workshop, Inline)
    return site.workshop


UNPROTECTED = {"allow_unprotected": "true"}


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL)


@pytest.fixture
def site(tmp_path: Path, key: SigningKey) -> Site:
    return make_site(tmp_path / "a", "a", key.public)


@pytest.fixture
def asker(key: SigningKey, site: Site, study: Study) -> Asker:
    """At a site that has approved the study."""
    approve(site, study)
    asker = Asker(key, site)
    assert asker.invite(study).message.decision == "approved"
    return asker


def spent(site: Site, study: Study) -> int:
    return len(site.ledger(study).entries())


def actions(site: Site) -> list[str]:
    return [event.action for event in site.log.events()]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# ------------------------------------------------------------------ who asks


def test_a_stranger_with_another_key_gets_a_refusal_and_nothing_happens(
    asker: Asker, study: Study
) -> None:
    heard = Asker(SigningKey.generate(), asker.site).train(study, 1)
    assert heard.rule == "site.cannot"
    assert heard.header.study == ""  # not even that the study is known here
    assert spent(asker.site, study) == 0


@pytest.mark.parametrize(
    "changes",
    [{"recipient": "b"}, {"recipient": "A"}, {"sender": "a"}, {"sender": "other-consortium"}],
)
def test_a_request_for_another_site_or_of_another_coordinator_is_refused(
    asker: Asker, study: Study, changes: dict[str, Any]
) -> None:
    heard = asker.train(study, 1, **changes)
    assert heard.rule == "protocol"
    assert spent(asker.site, study) == 0


@pytest.mark.parametrize("raw", [b"", b"CHT1", b"\xff" * 500, b"GET / HTTP/1.1\r\n\r\n"])
def test_bytes_that_are_no_envelope_are_refused(asker: Asker, study: Study, raw: bytes) -> None:
    assert asker.deliver(raw).rule == "protocol"


def test_a_request_cut_anywhere_is_refused_and_spends_nothing(asker: Asker, study: Study) -> None:
    asker.train(study, 1)
    raw = asker.sent.pop()
    fresh = spent(asker.site, study)
    for end in range(0, len(raw), 37):
        assert asker.deliver(raw[:end]).rule in ("protocol", "site.cannot")
    assert spent(asker.site, study) == fresh


# ------------------------------------------------------------------ which study


def test_a_study_that_was_never_proposed_cannot_be_run(
    key: SigningKey, site: Site, study: Study
) -> None:
    asker = Asker(key, site)
    assert asker.train(study, 1).rule == "study.unknown"
    assert asker.evaluate(study, 1).rule == "study.unknown"
    assert asker.ask(study, Measure()).rule == "study.unknown"
    assert asker.ask(study, Close(outcome="completed")).rule == "study.unknown"


def test_a_study_that_nobody_approved_waits_and_cannot_be_run(
    key: SigningKey, site: Site, study: Study
) -> None:
    asker = Asker(key, site)
    assert asker.invite(study).message == Consent(decision="waiting")
    assert asker.train(study, 1).rule == "study.waiting"
    assert asker.evaluate(study, 1).rule == "study.waiting"
    assert spent(site, study) == 0


def test_an_approved_study_changed_by_one_key_is_another_study(
    asker: Asker, study: Study, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    changed = write_study(tmp_path / "other", FULL.replace("epsilon = 3.0", "epsilon = 3.1"))
    assert changed.digest != study.digest
    assert asker.invite(changed).message.decision == "waiting"
    assert asker.train(changed, 1).rule == "study.waiting"
    assert asker.ask(study, Invite(study=changed)).rule == "protocol"  # the old digest above it


def test_a_signature_of_another_sites_key_is_no_approval(
    key: SigningKey, site: Site, study: Study, tmp_path: Path
) -> None:
    other = make_site(tmp_path / "elsewhere", "a", key.public)
    approve(other, study)
    site.studies.receive(study, 0)
    site.studies.mark(study.digest, "approved", "")
    for row in other.database.execute("SELECT * FROM approvals"):
        site.database.execute("INSERT INTO approvals VALUES (?, ?, ?, ?)", tuple(row))
    asker = Asker(key, site)
    assert asker.invite(study).message.decision == "waiting"
    assert asker.train(study, 1).rule == "approval.missing"


def test_an_approval_that_says_something_else_than_the_study_does_not_count(
    key: SigningKey, site: Site, study: Study
) -> None:
    approve(site, study)
    (row,) = site.database.execute("SELECT document FROM approvals")
    truth = parse_json(row["document"], Approval, "approval")
    site.approvals.withdraw(study.digest)
    site.approvals.add(truth.model_copy(update={"rounds": 2}), site.key)
    assert Asker(key, site).invite(study).message.decision == "waiting"


def test_a_changed_approval_row_does_not_count(asker: Asker, study: Study) -> None:
    asker.site.database.execute(
        "UPDATE approvals SET document = cast(replace(document, 'Weiss', 'Winter') AS BLOB)"
    )
    assert asker.train(study, 1).rule == "approval.missing"


def test_invitations_before_approval_say_nothing_about_the_patients(
    key: SigningKey, tmp_path: Path
) -> None:
    """Else label rules asked one after another would find the largest value of a column."""
    site = make_site(tmp_path / "a", "a", key.public, patients=3)
    (tmp_path / "s").mkdir()
    asker, said = Asker(key, site), set()
    for threshold in ("0.0", "5.0", "9.9"):
        study = write_study(
            tmp_path / "s",
            FULL,
            name=f"probe-{threshold[0]}",
        )
        values = study.model_dump()
        values["task"] |= {
            "label": "marker",
            "positive_codes": (),
            "positive_above": float(threshold),
        }
        values["data"] |= {"features": ("age",)}
        said.add(asker.invite(Study.model_validate(values)).body)
    assert len(said) == 1


def test_a_site_that_is_not_named_or_has_no_such_data_says_so_before_anyone_is_asked(
    key: SigningKey, tmp_path: Path, study: Study
) -> None:
    stranger = make_site(tmp_path / "z", "z", key.public)
    assert Asker(key, stranger).invite(study).rule == "study.sites"
    bare = make_site(tmp_path / "b", "b", key.public)
    bare.directory.dataset("ward").unlink()
    heard = Asker(key, bare).invite(study)
    assert heard.rule == "data.dataset"
    assert "cohortium site data add ward" in heard.message.explanation


def test_another_schema_than_the_registered_one_is_refused(
    key: SigningKey, site: Site, study: Study
) -> None:
    approve(site, study)
    edit(site.directory.root / "schema.toml", "high = 10\n", "high = 11\n")
    assert Asker(key, site).invite(study).rule == "data.schema"


# ------------------------------------------------------------------ which round


@pytest.mark.parametrize(
    ("round", "rule"), [(0, "protocol"), (4, "study.rounds"), (2**31 - 1, "study.rounds")]
)
def test_only_the_rounds_that_were_approved_can_be_trained(
    asker: Asker, study: Study, round: int, rule: str
) -> None:
    assert asker.train(study, round).rule == rule
    assert spent(asker.site, study) == 0


def test_a_round_asked_for_twice_gives_the_same_bytes_and_spends_once(
    asker: Asker, study: Study
) -> None:
    first, second = asker.train(study, 1), asker.train(study, 1)
    assert isinstance(first.message, Update)
    assert first.body == second.body
    assert first.header.message_id != second.header.message_id
    assert spent(asker.site, study) == 1
    assert actions(asker.site).count("privacy.spent") == 1


def test_the_same_signed_request_twice_spends_once(asker: Asker, study: Study) -> None:
    first = asker.train(study, 1)
    assert asker.deliver(asker.sent[-1]).body == first.body
    assert spent(asker.site, study) == 1


def test_a_changed_request_for_an_answered_round_is_refused_and_spends_nothing(
    asker: Asker, study: Study
) -> None:
    asker.train(study, 1)
    heard = asker.train(study, 1, scale=2.0)
    assert heard.rule == "round.changed"
    assert spent(asker.site, study) == 1


def test_the_round_before_the_last_is_answered_as_it_was_and_older_ones_never(
    asker: Asker, study: Study
) -> None:
    asker.train(study, 1)
    second = asker.train(study, 2)
    asker.train(study, 3)
    assert asker.train(study, 1).rule == "round.past"
    assert asker.train(study, 2).body == second.body
    assert asker.train(study, 2, scale=2.0).rule == "round.changed"
    assert spent(asker.site, study) == 3


def test_an_answered_round_stays_answered_after_a_restart(asker: Asker, study: Study) -> None:
    first = asker.train(study, 1)
    asker.site.database.close()
    again = Asker(asker.key, open_site(asker.site.directory.root))
    assert again.train(study, 1).body == first.body
    assert again.train(study, 1, scale=2.0).rule == "round.changed"
    assert spent(again.site, study) == 1


def test_two_rounds_of_noise_are_not_the_same_noise(asker: Asker, study: Study) -> None:
    assert asker.train(study, 1).body != asker.train(study, 2).body


class Killed(BaseException):
    """What a kill looks like from inside: nothing may catch it."""


def test_a_kill_after_the_spend_is_durable_gives_the_same_bytes_again(
    asker: Asker, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> bytes:
        raise Killed

    with monkeypatch.context() as during:
        during.setattr(rounds, "seal", killed)
        with pytest.raises(Killed):
            asker.train(study, 1)
    asker.site.database.close()
    again = Asker(asker.key, open_site(asker.site.directory.root))
    assert spent(again.site, study) == 1
    first, second = again.train(study, 1), again.train(study, 1)
    assert isinstance(first.message, Update)
    assert first.body == second.body
    assert spent(again.site, study) == 1


@pytest.mark.parametrize("table", ["ledger", "replies", "events"])
def test_a_kill_inside_the_transaction_leaves_neither_spend_nor_reply_nor_event(
    asker: Asker, study: Study, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    database, execute = asker.site.database, asker.site.database.execute
    before = actions(asker.site)

    def dying(sql: str, *rest: Any) -> list[sqlite3.Row]:
        rows = execute(sql, *rest)
        if sql.startswith(f"INSERT INTO {table}"):
            raise Killed
        return rows

    with monkeypatch.context() as during:
        during.setattr(database, "execute", dying)
        with pytest.raises(Killed):
            asker.train(study, 1)
    assert spent(asker.site, study) == 0
    assert execute("SELECT * FROM replies") == []
    assert actions(asker.site) == before
    assert isinstance(asker.train(study, 1).message, Update)


# ------------------------------------------------------------------ what is said


@pytest.mark.parametrize("kind", ["", "update", "refusal", "exec", "none", "train\n", "x" * 200])
def test_an_unknown_kind_of_message_is_refused(asker: Asker, study: Study, kind: str) -> None:
    heard = asker.send(study, kind, b"")
    assert heard.rule == "protocol"


@pytest.mark.parametrize("kind", ["invite", "measure", "train", "evaluate", "close"])
@pytest.mark.parametrize(
    "body", [b"", b"\0\0\0\x02{}abc", b"\xff" * 99, b'\0\0\0\x0d{"code": "1"}']
)
def test_a_garbage_body_is_refused_and_spends_nothing(
    asker: Asker, study: Study, kind: str, body: bytes
) -> None:
    assert asker.send(study, kind, body, round=1).rule == "protocol"
    assert spent(asker.site, study) == 0


def test_a_model_of_another_size_is_refused_and_spends_nothing(asker: Asker, study: Study) -> None:
    model = initial_model(study)
    for wrong in (model[:-1], model[:0]):
        heard = asker.ask(study, Train(), 1, wrong)
        assert heard.rule == "protocol"
        assert "model has 4 float32 values" in heard.message.explanation
    assert spent(asker.site, study) == 0


def test_statistics_for_a_study_that_needs_none_change_nothing(asker: Asker, study: Study) -> None:
    sums = Statistics(count=10, total=(1.0, 1.0, 1.0), squares=(9.0, 9.0, 9.0))
    heard = asker.ask(study, Train(statistics=sums), 1, initial_model(study))
    assert isinstance(heard.message, Update)
    assert asker.ask(study, Measure()).rule == "study.scaling"


def test_an_update_of_a_private_study_says_what_it_cost(asker: Asker, study: Study) -> None:
    first, second = asker.train(study, 1).message.spent, asker.train(study, 2).message.spent
    assert (first.steps, second.steps) == (1, 2)
    assert 0 < first.epsilon < second.epsilon < 3.0
    assert second.lifetime_epsilon == second.epsilon
    assert (second.cap_epsilon, second.cap_delta) == (10.0, 1e-5)


def test_no_exact_number_of_patients_leaves_a_private_study(asker: Asker, study: Study) -> None:
    consent = asker.invite(study).message
    assert consent.patients == "100-199"
    assert asker.train(study, 1).message.weight == 141.0


# ------------------------------------------------------------------ changes of mind


def test_after_a_rejection_nothing_more_leaves_not_even_again(asker: Asker, study: Study) -> None:
    asker.train(study, 1)
    asker.site.approvals.withdraw(study.digest)
    asker.site.studies.mark(study.digest, "rejected", "rejected by Dr. Weiss")
    assert asker.train(study, 2).rule == "study.rejected"
    assert asker.train(study, 1).rule == "study.rejected"
    assert asker.evaluate(study, 1).rule == "study.rejected"
    assert asker.invite(study).message.explanation == "rejected by Dr. Weiss"
    assert spent(asker.site, study) == 1


def test_a_completed_study_cannot_be_revived_by_inviting_again(asker: Asker, study: Study) -> None:
    asker.train(study, 1)
    asker.ask(study, Close(outcome="completed"))
    assert inline(asker.site).cohorts == {}
    assert asker.invite(study).rule == "study.ended"
    for round in (1, 2):
        assert asker.train(study, round).rule == "study.ended"
    assert asker.ask(study, Close(outcome="completed")).rule == ""  # twice is once
    assert actions(asker.site).count("run.completed") == 1


@pytest.mark.parametrize(
    ("old", "new", "key_named"),
    [
        ('purposes = ["HMB"]', "purposes = []", "purposes"),
        ('"logistic", "linear", ', "", "models"),
        ("max_rounds = 100", "max_rounds = 2", "max_rounds"),
        ("max_epsilon_per_study = 4.0", "max_epsilon_per_study = 2", "max_epsilon_per_study"),
        ("minimum_patients = 20", "minimum_patients = 500", "minimum_patients"),
    ],
)
def test_a_policy_tightened_in_the_middle_of_a_study_holds_from_the_next_request(
    asker: Asker, study: Study, old: str, new: str, key_named: str
) -> None:
    asker.train(study, 1)
    edit(asker.site.directory.config, old, new)
    for heard in (asker.train(study, 2), asker.evaluate(study, 1)):
        assert heard.rule == f"policy.{key_named}"
        assert f"[policy] {key_named}" in heard.message.explanation
    assert spent(asker.site, study) == 1


def test_a_broken_site_toml_refuses_without_quoting_it_to_the_coordinator(
    asker: Asker, study: Study
) -> None:
    edit(asker.site.directory.config, "max_rounds = 100", "max_ruonds = 100")
    heard = asker.train(study, 1)
    assert heard.rule == "site.cannot"
    assert "ruonds" not in heard.message.explanation
    edit(asker.site.directory.config, "max_ruonds = 100", "max_rounds = 100")
    assert isinstance(asker.train(study, 1).message, Update)


# ------------------------------------------------------------------ bad data


def test_a_vanished_table_is_a_refusal_with_an_id_that_the_sites_log_knows(
    asker: Asker, study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    asker.train(study, 1)
    root = asker.site.directory.root
    (root / "ward.csv").unlink()
    again = Asker(asker.key, open_site(root))  # the table is read once per start
    with caplog.at_level(logging.ERROR, "cohortium.site"):
        heard = again.train(study, 2)
    assert heard.rule == "data.unfit"
    assert "ward.csv" not in heard.message.explanation
    (line,) = [m for m in caplog.messages if f" {heard.message.correlation_id}: " in m]
    assert "ward.csv: " in line
    write_ward(root / "ward.csv", seed=97)
    assert isinstance(again.train(study, 2).message, Update)


def test_text_in_a_number_column_is_refused_and_shown_to_nobody(
    asker: Asker, study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    root = asker.site.directory.root
    lines = (root / "ward.csv").read_text().splitlines()
    lines[5] = "Jane-Doe-1971,1,2.5,0"
    (root / "ward.csv").write_text("\n".join(lines))
    again = Asker(asker.key, open_site(root))
    approve(again.site, study)  # of the table as it is now
    with caplog.at_level(logging.DEBUG):
        heard = again.train(study, 1)
    assert heard.rule == "data.unfit"
    assert 'line 6: column "age"' in caplog.text
    assert heard.message.correlation_id in caplog.text
    log = "".join(event.line for event in again.site.log.events())
    for text in (caplog.text, log, heard.raw.decode("latin-1")):
        assert "Jane" not in text
    assert spent(again.site, study) == 0


def one_class(root: Path) -> None:
    rows = (root / "ward.csv").read_text().splitlines()
    (root / "ward.csv").write_text("\n".join([rows[0], *(r for r in rows[1:] if r[-1] == "1")]))


def three_rows(root: Path) -> None:
    rows = (root / "ward.csv").read_text().splitlines()
    (root / "ward.csv").write_text("\n".join(rows[:4]))


def no_label(root: Path) -> None:
    rows = (root / "ward.csv").read_text().splitlines()
    (root / "ward.csv").write_text("\n".join([rows[0], *(row[:-1] for row in rows[1:])]))


def no_column(root: Path) -> None:
    edit(root / "ward.csv", "age,sex,marker,ill", "age,sex,marker,sick")


@pytest.mark.parametrize(
    ("spoil", "rules"),
    [
        (one_class, {"data.unfit"}),
        (three_rows, {"data.unfit", "policy.minimum_patients"}),
        (no_label, {"data.unfit"}),
        (no_column, {"data.unfit"}),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused_at_the_invitation(
    key: SigningKey, site: Site, study: Study, spoil: Callable[[Path], None], rules: set[str]
) -> None:
    spoil(site.directory.root)
    approve(site, study)
    asker = Asker(key, site)
    assert asker.invite(study).rule in rules
    assert spent(site, study) == 0


def test_an_unexpected_error_says_its_class_to_the_site_and_nothing_to_the_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "Jane-Doe-1971-02-29"

    def poisoned(*_: Any) -> None:
        raise KeyError(secret)

    study = write_study(tmp_path, FULL)
    federation = federate(tmp_path)
    for site in federation.sites.values():
        approve(site, study)
    with monkeypatch.context() as during, caplog.at_level(logging.DEBUG):
        during.setattr(local_round, "train", poisoned)
        with pytest.raises(Exception, match=r"site\.error"):
            run_study(study, federation.desk(study))
    refusals = [
        reply
        for name, _, reply in federation.transport.wire
        if unseal(reply, federation.sites[name].key.public)[0].kind == "refusal"
    ]
    assert len(refusals) == 3
    wire = b"".join(reply for _, _, reply in federation.transport.wire)
    assert secret.encode() not in wire
    assert b"KeyError" not in wire
    assert b"Traceback" not in wire
    assert secret not in caplog.text
    assert "KeyError in" in caplog.text
    logs = "".join(e.line for site in federation.sites.values() for e in site.log.events())
    assert secret not in logs


# ------------------------------------------------------------------ without privacy


def test_a_study_without_privacy_needs_the_sites_word_and_spends_nothing(
    key: SigningKey, tmp_path: Path
) -> None:
    study = write_study(tmp_path, PLAIN)
    strict = make_site(tmp_path / "a", "a", key.public)
    assert Asker(key, strict).invite(study).rule == "policy.allow_unprotected"
    open_one = make_site(tmp_path / "b", "b", key.public, policy=UNPROTECTED)
    approve(open_one, study)
    asker = Asker(key, open_one)
    asker.invite(study)
    update = asker.train(study, 1)
    assert update.message.spent is None
    assert isinstance(asker.evaluate(study, 1).message, Evaluated)
    assert Ledger(open_one.database, open_one.directory.load_dataset("ward")).entries() == []


def test_statistics_asked_for_again_and_again_do_not_pile_up_in_memory(
    key: SigningKey, tmp_path: Path
) -> None:
    policy = {**UNPROTECTED, "allow_exact_counts": "true"}
    study = write_study(tmp_path, PLAIN, '[preprocessing]\nscaling = "federated-standard"\n')
    site = make_site(tmp_path / "a", "a", key.public, policy=policy)
    approve(site, study)
    asker = Asker(key, site)
    asker.invite(study)
    measured = asker.ask(study, Measure()).message.statistics
    for factor in (1, 2, 3):
        more = measured.model_copy(update={"count": measured.count * factor})
        heard = asker.ask(study, Train(statistics=more), factor, initial_model(study))
        assert isinstance(heard.message, Update)
    assert len(inline(site).cohorts) == 1


def test_a_refusal_is_signed_answers_the_request_and_is_in_the_log(
    asker: Asker, study: Study
) -> None:
    heard = asker.train(study, 4)
    assert isinstance(heard.message, Refusal)
    assert heard.header == Header(
        kind="refusal",
        study=study.digest,
        round=4,
        message_id=heard.header.message_id,
        sender="a",
        recipient=COORDINATOR,
        sent_ms=heard.header.sent_ms,
    )
    *_, event = asker.site.log.events()
    assert (event.action, event.outcome, event.reason) == (
        "round.refused",
        "denied",
        "study.rounds",
    )
    assert event.detail["correlation"] == heard.message.correlation_id


def test_no_vector_rides_on_an_answer_that_has_none(asker: Asker, study: Study) -> None:
    for heard in (asker.invite(study), asker.evaluate(study, 1), asker.train(study, 9)):
        assert heard.body == pack(heard.message)
        assert kind_of(heard.message) != "update"
