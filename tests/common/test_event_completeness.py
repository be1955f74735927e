"""What the vocabulary promises is logged where it happens, and nothing of a patient is in it."""

import ast
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.asking import Asker
from tests.federation import (
    COORDINATOR,
    FULL,
    PLAIN,
    Federation,
    approve,
    clock,
    federate,
    make_site,
    set_policy,
    write_study,
)
from tests.needles import spellings

from cohortium.client import snapshot
from cohortium.client.site import Site, open_site
from cohortium.client.workshop import Inline
from cohortium.common.audit.events import DETAIL_KEYS, Actor, Event
from cohortium.common.audit.noticing import Noticing, policy_digest
from cohortium.common.cli import main
from cohortium.common.errors import CohortiumError
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Update
from cohortium.common.study import Study
from cohortium.server.config import CoordinatorConfig
from cohortium.server.coordinator import initial_model, run_study
from cohortium.server.release import examine, raise_flags

ROOT = Path(__file__).parent.parent.parent
OPEN = {"allow_unprotected": "true"}
# Of the vocabulary, but for what Cohortium cannot do yet. Whoever builds it takes it off this list.
RESERVED = {
    "protocol.changed": "a study never changes: another protocol is another study, with approvals",
    "cohort.queried": "no site answers how many patients it has before a study is approved",
    "pccp.modification.executed": "there are no predetermined change control plans",
}


# ------------------------------------------------------------------ the vocabulary


def emitted() -> set[str]:
    """Actions that stand in an `append` call, in a table EVENTS, or that a function picks."""
    found: set[str] = set()
    for root in ("server", "client", "common"):
        for path in (ROOT / root).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for part in _speaking(node):
                    found |= _texts(part)
    return found & DETAIL_KEYS.keys()


def _speaking(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr == "append" and node.args:
            yield node.args[0]
    elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "EVENTS":
        assert isinstance(node.value, ast.Dict)
        yield from node.value.values
    elif isinstance(node, ast.FunctionDef) and node.returns is not None:
        yield from node.body if ast.unparse(node.returns) == "Action" else ()


def _texts(node: ast.AST) -> set[str]:
    return {
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


def test_every_action_is_logged_somewhere_or_is_known_to_be_for_later() -> None:
    missing = DETAIL_KEYS.keys() - emitted() - RESERVED.keys()
    assert missing == set()


def test_what_is_reserved_is_logged_nowhere() -> None:
    assert RESERVED.keys() & emitted() == set()
    assert RESERVED.keys() <= DETAIL_KEYS.keys()


# ------------------------------------------------------------------ where things happen


@pytest.fixture
def asker(tmp_path: Path) -> Asker:
    key = SigningKey.generate()
    return Asker(key, make_site(tmp_path / "a", "a", key.public, policy=OPEN))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, PLAIN)


def of(site: Site, *actions: str) -> list[Event]:
    return [event for event in site.log.events() if event.action in actions]


def test_an_edited_site_toml_is_noticed_at_the_next_request_and_says_nothing_of_its_content(
    asker: Asker, study: Study
) -> None:
    site, file = asker.site, asker.site.directory.config
    asker.invite(study)
    before = policy_digest(site.directory.load_config())
    asker.invite(study)
    assert of(site, "policy.changed") == []
    set_policy(file, {"max_rounds": "57"})
    asker.invite(study)
    asker.invite(study)
    (event,) = of(site, "policy.changed")
    after = policy_digest(site.directory.load_config())
    assert event.detail == {"setting": "site.toml", "before": before, "after": after}
    assert before != after
    assert "57" not in json.dumps(event.detail).replace(after, "").replace(before, "")
    assert event.actor == site.actor


def test_people_who_get_another_role_are_in_the_sites_log_and_in_no_digest_that_leaves(
    asker: Asker, study: Study
) -> None:
    site, file = asker.site, asker.site.directory.config
    asker.invite(study)
    text = file.read_text()
    key = SigningKey.generate().public.text
    file.write_text(f'{text}\n[people]\nweiss = "approver"\n[auditors]\nhaddad = "{key}"\n')
    asker.invite(study)
    file.write_text(f'{text}\n[people]\nweiss = "auditor"\n')
    asker.invite(study)
    assert [dict(event.detail) for event in of(site, "user.role.changed")] == [
        {"user": "haddad", "role_before": "none", "role_after": "auditor", "key_after": key},
        {"user": "weiss", "role_before": "none", "role_after": "approver"},
        {"user": "haddad", "role_before": "auditor", "role_after": "none"},
        {"user": "weiss", "role_before": "approver", "role_after": "auditor"},
    ]
    assert of(site, "policy.changed") == []
    shared = "".join(row["line"] for row in site.database.execute("SELECT line FROM shared"))
    assert "weiss" not in shared


def test_a_daemon_that_starts_says_under_which_rules_and_an_upgraded_one_says_it_once(
    asker: Asker,
) -> None:
    asker.site.notice(starting=True)
    asker.site.notice(starting=True)
    (event,) = of(asker.site, "policy.changed")
    assert event.detail.keys() == {"setting", "after"}


def test_a_coordinators_people_are_noticed_the_same_way(tmp_path: Path) -> None:
    federation = federate(tmp_path, ("a",))
    noticing = Noticing(federation.store.database, federation.log)
    plain = CoordinatorConfig(name="net", host="h")
    named = plain.model_copy(update={"people": {"meyer": "lead"}, "studies_at_once": 2})
    noticing.settings("coordinator.toml", plain, federation.actor, starting=True)
    noticing.settings("coordinator.toml", named, federation.actor, starting=False)
    actions = [event.action for event in federation.log.events()]
    assert actions == ["policy.changed", "policy.changed", "user.role.changed"]


def test_a_no_withdraws_whose_approval_it_was(asker: Asker, study: Study) -> None:
    site = asker.site
    approve(site, study)
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["site", "reject", study.name, "--as", "x", "--dir", str(site.directory.root)])
    (event,) = of(site, "approval.withdrawn")
    assert (event.study, event.detail) == (study.digest, {"person": "Dr. Weiss"})


def test_a_tables_version_is_logged_when_it_is_new_and_only_this_site_can_make_it(
    asker: Asker, study: Study, tmp_path: Path
) -> None:
    site = asker.site
    approve(site, study)
    asker.invite(study)
    asker.invite(study)
    (first,) = of(site, "dataset.snapshot")
    table = site.directory.root / "ward.csv"
    plain = hashlib.sha256(table.read_bytes()).hexdigest()
    assert first.detail["version"] == snapshot.version_of(site, plain)
    assert plain not in "".join(
        row["line"] for row in site.database.execute("SELECT line FROM shared")
    )
    twin = make_site(tmp_path / "twin", "a", asker.key.public)
    assert snapshot.version_of(twin, plain) != first.detail["version"]
    table.write_text(table.read_text() + "44,1,5.0,1\n")
    approve(site, study)
    asker.invite(study)
    assert len({event.detail["version"] for event in of(site, "dataset.snapshot")}) == 2


def test_the_model_that_came_and_the_rules_of_the_day_stand_beside_what_left(
    asker: Asker, study: Study
) -> None:
    site = asker.site
    approve(site, study)
    asker.invite(study)
    asker.train(study, 1)
    (came,) = of(site, "round.task.received")
    model = initial_model(study).astype("<f4").tobytes()
    assert came.obj[0].h == f"sha256:{hashlib.sha256(model).hexdigest()}"
    assert (came.round, came.detail) == (1, {"kind": "train"})
    (sent,) = of(site, "round.update.sent")
    assert sent.policy is not None
    assert sent.policy.h == f"sha256:{policy_digest(site.directory.load_config())}"
    asker.deliver(asker.sent[-1])
    assert len(of(site, "round.task.received")) == 1  # the same answer again is no new task


def test_a_request_that_the_coordinator_did_not_sign_is_a_failed_authentication(
    asker: Asker, study: Study
) -> None:
    stranger = Asker(SigningKey.generate(), asker.site)
    stranger.invite(study)
    (event,) = of(asker.site, "auth.fail")
    assert (event.outcome, event.reason) == ("denied", "site.cannot")


def test_a_clock_behind_its_own_records_is_logged(asker: Asker, study: Study) -> None:
    site = asker.site
    approve(site, study)
    asker.invite(study)
    assert isinstance(asker.train(study, 1).message, Update)
    late = open_site(site.directory.root, lambda: clock() - timedelta(hours=2))
    assert Asker(asker.key, late).train(study, 2).rule == "site.clock"
    (event,) = of(site, "clock.skew")
    assert 7190 <= int(event.detail["seconds"]) <= 7210


def test_a_fairness_audit_is_logged_once(tmp_path: Path) -> None:
    federation = federate(tmp_path, policy=OPEN)
    study = write_study(tmp_path, PLAIN)
    for site in federation.sites.values():
        approve(site, study)
    run_study(study, federation.desk(study))
    row = federation.store.study(study.name)
    actor = Actor(type="coordinator", id=COORDINATOR, auth="local")
    for _ in range(2):
        dossier = examine(row, federation.store, federation.log)
        raise_flags(dossier, federation.store, federation.log, actor)
    found = [e for e in federation.log.events() if e.action == "fairness.audit.completed"]
    assert len(found) == 1
    assert found[0].detail["attributes"] == "sex, age"
    assert found[0].obj[0].h == f"sha256:{dossier.subject.audit}"


# ------------------------------------------------------------------ nothing of a patient


def lines(federation: Federation) -> str:
    """Every event of everybody, as it is stored."""
    site_lines = [
        row["line"]
        for site in federation.sites.values()
        for table in ("events", "shared")
        for row in site.database.execute(f"SELECT line FROM {table}")
    ]
    return "\n".join([*site_lines, *(event.line for event in federation.log.events())])


def run(federation: Federation, study: Study) -> None:
    for site in federation.sites.values():
        approve(site, study)
    try:
        run_study(study, federation.desk(study))
    except CohortiumError:
        pass


NAMES = st.text("ABCDEFGHJKMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz-", min_size=9, max_size=20)


@pytest.mark.slow
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(name=NAMES.map(lambda text: f"Zq{text}"), marker=st.integers(10**9, 10**10 - 1))
def test_no_event_says_anything_of_a_patient_whoever_that_is(
    tmp_path_factory: pytest.TempPathFactory, name: str, marker: int
) -> None:
    planted(tmp_path_factory.mktemp("planted"), name, marker)


def test_no_event_of_a_study_with_refusals_and_errors_says_anything_of_a_patient(
    tmp_path: Path,
) -> None:
    planted(tmp_path, "Zq-Jane-Doe", 7345219608)


def planted(root: Path, name: str, marker: int) -> None:
    """One site's table has a name where none may be, one's training fails with a name in its
    error, one's has a number unlike all others; and nobody's budget, policy or signature fits."""
    federation = federate(root, ("a", "b", "c"), policy=OPEN, epsilon_cap=0.5)
    value = f"7.{marker}"
    _plant(federation.sites["a"], 3, value)
    plain = write_study(root, PLAIN.replace("rounds = 4", "rounds = 1"))
    run(federation, plain)
    assert "evaluation.completed" in lines(federation)

    _plant(federation.sites["b"], 4, name)
    federation.sites["c"] = _broken(federation.sites["c"], f"patient {name} has {value}")
    federation.transport.sites = federation.sites
    run(federation, write_study(root, PLAIN, name="second"))
    run(federation, write_study(root, FULL, name="third"))
    Asker(SigningKey.generate(), federation.sites["a"]).invite(plain)

    said = lines(federation).encode()
    assert b"round.refused" in said
    assert b"privacy.cap.hit" in said
    assert b"auth.fail" in said
    needles = [*spellings(name), *spellings(value), *spellings(str(marker))]
    assert [needle for needle in needles if needle in said] == []
    federation.close()


def _plant(site: Site, row: int, cell: str) -> None:
    table = site.directory.root / "ward.csv"
    rows = [line.split(",") for line in table.read_text().splitlines()]
    rows[row][2] = cell
    table.write_text("\n".join(",".join(cells) for cells in rows) + "\n")


class Failing(Inline):
    """Training that fails with a patient in its error's text."""

    text = ""

    def train(self, *arguments: Any) -> Any:
        raise ValueError(self.text)


def _broken(site: Site, text: str) -> Site:
    workshop = Failing(site.name, "cpu", site.directory.load_dataset)
    workshop.text = text
    return replace(site, workshop=workshop)
