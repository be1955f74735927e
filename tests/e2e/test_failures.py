"""What people get wrong: one clear line, the right exit code, nothing half-done, others go on."""

import os
import shutil
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.deployment import (
    APPROVER,
    HOST,
    Deployment,
    Result,
    assert_nothing_runs,
    command,
    deployment,
    each,
    free_port,
    one_line,
    write_patient_study,
)
from tests.federation import PLAIN, SCHEMA

HEADER = "age,sex,marker,ill\n"
ONE_ROUND = {"rounds = 4": "rounds = 1"}


def study_on(dataset: str) -> dict[str, str]:
    """One round of a and c on another dataset than the ward's; one of the two is enough."""
    return {
        **ONE_ROUND,
        'dataset = "ward"': f'dataset = "{dataset}"',
        '["a", "b", "c"]': '["a", "c"]',
        "min_sites = 2": "min_sites = 1",
    }


HEALTHY = [f"{30 + i % 50},{i % 2},{i % 10}.5,{i % 2}" for i in range(100)]
OTHER_SCHEMA = SCHEMA.replace("high = 10", "high = 11")
# What c registers, while a has its ward's table: rows, and by which schema.
UNFIT = {
    "other-schema": (HEALTHY, OTHER_SCHEMA),
    "one-class": ([f"{30 + i % 50},{i % 2},5.5,1" for i in range(100)], SCHEMA),
    "three-patients": (["50,0,1.0,0", "60,1,9.0,1", "70,1,8.0,1"], SCHEMA),
    "no-label": ([f"{30 + i % 50},{i % 2},5.5," for i in range(100)], SCHEMA),
}
NOT_AT_C = "not-at-c"


@pytest.fixture(scope="module")
def unfit(
    consortium: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """A study on each dataset at the same time; what `study watch` said of each."""
    names = (*UNFIT, NOT_AT_C)
    place = tmp_path_factory.mktemp("unfit")
    each(names, lambda name: consortium.add_data("a", name, consortium.root / "a.csv"))
    for name, (rows, schema) in UNFIT.items():
        consortium.add_data("c", name, write_rows(place / f"{name}.csv", rows), schema)
    for name in names:
        write_patient_study(place, PLAIN, name=name, changes=study_on(name))
        consortium.submit(place / "study.toml")
    for name in names:
        # Nothing looks at the data before a person approved; without any, nobody can.
        consortium.approve(name, "a", *("c" for _ in range(name in UNFIT)))
    return {name: consortium.finish(name).lines for name in names}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rules", "for_the_operator"),
    [
        ("other-schema", {"data.schema"}, "another schema"),
        ("one-class", {"data.unfit"}, "one class only"),
        ("three-patients", {"policy.minimum_patients", "data.unfit", "data.batch"}, ""),
        ("no-label", {"policy.minimum_patients", "data.unfit"}, ""),
        (NOT_AT_C, {"data.dataset"}, f'no dataset "{NOT_AT_C}"'),
    ],
)
def test_a_site_with_unfit_data_refuses_and_the_others_complete(
    consortium: Deployment,
    unfit: dict[str, list[dict[str, Any]]],
    name: str,
    rules: set[str],
    for_the_operator: str,
) -> None:
    only_round, end = unfit[name]
    assert end["state"] == "completed"
    assert only_round["replied"] == ["a"]
    digests = {
        study["name"]: study["digest"]
        for study in consortium.at_coordinator("study", "list")["studies"]
    }
    (denied,) = (
        event
        for event in consortium.events(consortium.coordinator)
        if (event["action"], event.get("study")) == ("study.rejected", digests[name])
    )
    assert denied["detail"]["site"] == "c"
    assert denied["reason"] in rules
    assert for_the_operator in (consortium.site("c") / "site.log").read_text()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (HEADER + "50,1,3.5,1\n51,0,low-9241,0\n", ("marker", "line 3")),
        (HEADER + "50,1,3.5,1\n51,0,9241,0\n", ("marker", "line 3")),
        (HEADER + "50,9241,3.5,1\n", ("sex", "line 2")),
        ("age,sex,marker\n50,1,9.241\n", ("ill",)),
        (HEADER, ("c.csv",)),
    ],
    ids=["text", "out of bounds", "unknown code", "label missing", "no row"],
)
def test_an_unfit_table_is_refused_without_saying_a_value(
    consortium: Deployment, tmp_path: Path, table: str, said: tuple[str, ...]
) -> None:
    (tmp_path / "c.csv").write_text(table)
    (tmp_path / "schema.toml").write_text(SCHEMA)
    options = ("--path", tmp_path / "c.csv", "--schema", tmp_path / "schema.toml")
    where = ("--dir", consortium.site("c"))
    message = consortium.fails(2, "site", "data", "add", "unfit", *options, *where)
    assert all(part in message for part in said), message
    assert "924" not in message
    assert not (consortium.site("c") / "datasets" / "unfit.toml").exists()


def test_not_a_number_counts_as_a_gap(consortium: Deployment, tmp_path: Path) -> None:
    table = write_rows(tmp_path / "c.csv", ["50,1,NaN,1", "51,0,,0", "52,0,3.5,0"])
    schema = tmp_path / "schema.toml"
    schema.write_text(SCHEMA)
    options = ("--path", table, "--schema", schema)
    added = consortium.at_site("c", "data", "add", "gaps", *options)
    assert (added["patients"], added["missing"]) == (3, {"marker": 2})


def test_a_study_for_a_site_that_is_not_enrolled_is_refused(
    consortium: Deployment, tmp_path: Path
) -> None:
    changes = {'["a", "b", "c"]': '["a", "b", "nowhere"]'}
    write_patient_study(tmp_path, PLAIN, name="nowhere", changes=changes)
    where = ("--dir", consortium.coordinator)
    said = consortium.fails(4, "study", "submit", tmp_path / "study.toml", *where)
    assert "nowhere not enrolled" in said
    listed = consortium.at_coordinator("study", "list")["studies"]
    assert "nowhere" not in {study["name"] for study in listed}


def test_a_mistyped_key_names_file_key_and_the_right_one(
    consortium: Deployment, tmp_path: Path
) -> None:
    changes = {"learning_rate = 0.2": "learnin_rate = 0.2"}
    with pytest.raises(Exception, match="learnin_rate"):
        write_patient_study(tmp_path, PLAIN, name="mistyped", changes=changes)
    said = consortium.fails(2, "study", "validate", tmp_path / "study.toml")
    assert all(part in said for part in ("study.toml", "learnin_rate", "learning_rate"))


def test_a_name_that_is_taken_cannot_be_invited_again(consortium: Deployment) -> None:
    out = consortium.root / "again.invite"
    arguments = ("invite", "a", "--out", out, "--dir", consortium.coordinator)
    assert "choose another name" in consortium.fails(2, "coordinator", *arguments)
    assert not out.exists()


def test_bad_invitations_leave_no_directory_half_done_and_can_be_retried(
    consortium: Deployment, tmp_path: Path
) -> None:
    """Expired, of another CA, with a wrong token: refused, then the right one works once."""
    home = tmp_path / "newcomer"
    invitation = consortium.invite("newcomer")
    text = invitation.read_text()

    def refused(changed: str, code: int) -> str:
        altered = tmp_path / "altered.invite"
        altered.write_text(changed)
        said = consortium.fails(code, "site", "join", altered, "--dir", home)
        assert not home.exists() or not any(home.iterdir())
        return said

    # The coordinator's own record says that it expired, whatever the file says.
    set_expiry(consortium, "newcomer", 0)
    assert "has expired" in refused(text, 3)
    set_expiry(consortium, "newcomer", 2**50)
    expires = next(line for line in text.splitlines() if line.startswith("expires"))
    assert "valid until" in refused(text.replace(expires, "expires = 2020-01-01T00:00:00Z"), 3)
    other = Deployment(tmp_path)
    who = ("--name", "consortium", "--host", HOST)
    made = other.ok("coordinator", "init", other.coordinator, *who)
    pem = (other.coordinator / "ca.pem").read_text()
    ours = (consortium.coordinator / "ca.pem").read_text()
    assert "another CA certificate than it says" in refused(text.replace(ours, pem), 3)
    fingerprint = next(line for line in text.splitlines() if line.startswith("ca_fingerprint"))
    swapped = text.replace(ours, pem).replace(
        fingerprint, f'ca_fingerprint = "{made["ca_fingerprint"]}"'
    )
    assert "is not from the CA that" in refused(swapped, 3)
    token = next(line for line in text.splitlines() if line.startswith("token"))
    assert "is not valid" in refused(text.replace(token, f'token = "{"x" * 43}"'), 3)

    joined = consortium.ok("site", "join", invitation, "--dir", home)
    assert (joined["site"], joined["already"]) == ("newcomer", False)
    twice = ("site", "join", invitation, "--dir", tmp_path / "twice")
    assert "was used" in consortium.fails(3, *twice)
    denied = [e for e in consortium.events(consortium.coordinator) if e["action"] == "auth.fail"]
    assert {event["reason"] for event in denied} >= {
        "the invitation has expired",
        "no invitation with that token",
        "the invitation was used before",
    }


def test_nobody_answers_is_exit_code_5(tmp_path: Path) -> None:
    alone = Deployment(tmp_path)
    who = ("--name", "consortium", "--host", HOST, "--enrolment-port", str(free_port()))
    alone.ok("coordinator", "init", alone.coordinator, *who)
    invitation = alone.invite("early")
    said = alone.fails(5, "site", "join", invitation, "--dir", tmp_path / "early")
    assert "ask the coordinator whether it is up" in said
    write_patient_study(tmp_path, PLAIN, name="early")
    where = ("--dir", alone.coordinator)
    assert "early" in alone.fails(2, "study", "watch", "early", *where)


def test_watching_without_a_coordinator_ends_and_says_so(
    consortium: Deployment, tmp_path: Path
) -> None:
    """A copy of the state directory in which nothing runs, with a study that is not over."""
    home = tmp_path / "coordinator"
    shutil.copytree(consortium.coordinator, home, ignore=shutil.ignore_patterns("superlink"))
    write_patient_study(tmp_path, PLAIN, name="nobody-runs-it")
    submitted = command(
        tmp_path, "study", "submit", str(tmp_path / "study.toml"), "--dir", str(home)
    )
    assert submitted.code == 0
    assert "the coordinator is not running" in submitted.stderr
    watched = command(tmp_path, "study", "watch", "nobody-runs-it", "--dir", str(home))
    assert watched.code == 5
    assert "the coordinator is not running" in one_line(watched)
    status = command(tmp_path, "coordinator", "status", "--dir", str(home))
    assert (status.document["state"], status.document["sites_online"]) == ("not running", [])


def test_a_second_daemon_in_the_same_directory_is_refused(consortium: Deployment) -> None:
    where = consortium.coordinator
    assert "already runs in" in consortium.fails(1, "coordinator", "up", "--dir", where)
    assert "already runs in" in consortium.fails(1, "site", "up", "--dir", consortium.site("a"))
    assert "a" in consortium.at_coordinator("coordinator", "status")["sites_online"]


def test_a_port_in_use_is_named_and_nothing_starts(tmp_path: Path) -> None:
    with (
        deployment(tmp_path) as alone,
        socket.create_server((HOST, 0)) as fleet,
        socket.create_server((HOST, 0)) as enrolment,
    ):
        ports = {"--fleet-port": fleet, "--enrolment-port": enrolment}
        words = (str(word) for o, s in ports.items() for word in (o, s.getsockname()[1]))
        who = ("--name", "consortium", "--host", HOST)
        alone.ok("coordinator", "init", alone.coordinator, *who, *words)
        for taken in ports.values():
            said = alone.fails(5, "coordinator", "up", "--dir", alone.coordinator)
            assert str(taken.getsockname()[1]) in said
            assert "in use" in said
            assert_nothing_runs(tmp_path)
            taken.close()
        alone.start_coordinator()


def test_a_revoked_site_is_told_and_is_not_asked_again(
    consortium: Deployment, tmp_path: Path
) -> None:
    consortium.join("outcast")
    outcast = consortium.start_site("outcast")
    outcast.wait_state("online")
    where = ("--dir", consortium.coordinator)
    consortium.ok("coordinator", "revoke", "outcast", *where)
    assert outcast.wait(15) == 3
    assert "was revoked" in outcast.stderr
    members = consortium.at_coordinator("coordinator", "sites")["sites"]
    assert {m["name"]: m["state"] for m in members}["outcast"] == "revoked"
    changes = {'["a", "b", "c"]': '["a", "b", "outcast"]'}
    write_patient_study(tmp_path, PLAIN, name="with-outcast", changes=changes)
    consortium.fails(4, "study", "submit", tmp_path / "study.toml", *where)


@pytest.mark.slow
def test_a_site_that_was_revoked_while_away_is_told(consortium: Deployment) -> None:
    """It first takes the refusal for that of a predecessor that was killed: 25 s."""
    consortium.join("forgotten")
    consortium.at_coordinator("coordinator", "revoke", "forgotten")
    up = consortium.start_site("forgotten")
    assert up.wait(60) == 3
    assert "was revoked" in up.stderr


@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"), reason="nothing denies root a directory"
)
def test_an_unwritable_directory_is_named(consortium: Deployment, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    invitation = consortium.invite("locked-out")
    locked.chmod(0o555)
    new = locked / "new"
    for arguments in (
        ("coordinator", "init", new, "--name", "n", "--host", HOST),
        ("coordinator", "invite", "locked-out", "--out", new, "--dir", consortium.coordinator),
        ("site", "join", invitation, "--dir", new),
        ("demo", "--workdir", new),
    ):
        result = without_root(tmp_path, *map(str, arguments))
        assert result.code in (1, 2), result
        assert str(new) in one_line(result)
        assert not new.exists()
    locked.chmod(0o755)
    assert consortium.ok("site", "join", invitation, "--dir", new)["site"] == "locked-out"


def test_the_directory_of_another_role_is_refused(consortium: Deployment) -> None:
    said = consortium.fails(2, "site", "budget", "--dir", consortium.coordinator)
    assert "no site's directory" in said
    said = consortium.fails(2, "study", "list", "--dir", consortium.site("a"))
    assert "no coordinator's directory" in said


def test_a_study_that_never_came_cannot_be_approved(
    consortium: Deployment,
) -> None:
    where = ("--as", APPROVER, "--dir", consortium.site("a"))
    assert "has reached this site" in consortium.fails(2, "site", "approve", "never", *where)


def write_rows(path: Path, rows: list[str]) -> Path:
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


def set_expiry(consortium: Deployment, site: str, ms: int) -> None:
    """Let time pass, or not, for one invitation."""
    database = sqlite3.connect(consortium.coordinator / "coordinator.db")
    with database:
        database.execute("UPDATE invitations SET expires_ms = ? WHERE site = ?", (ms, site))
    database.close()


def without_root(place: Path, *arguments: str) -> Result:
    """Run a command without root's right to write anywhere."""
    powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    return command(place, *arguments, before=powerless if os.geteuid() == 0 else ())
