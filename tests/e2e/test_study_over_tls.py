"""Two studies at once, from invitation to report, over TLS between real processes."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from tests.e2e.deployment import APPROVER, Deployment, Result, each, write_patient_study
from tests.federation import PLAIN, PRIVATE, approve, federate

from cohortium.common import arrays
from cohortium.common.layout import table_layout
from cohortium.common.models.building import build_seeded
from cohortium.common.study import Study
from cohortium.server.coordinator import run_study

SITES = ("a", "b", "c")


@dataclass(frozen=True)
class Finished:
    """A study that has run, what `study watch` said, where its report and released model are."""

    study: Study
    watched: Result
    report: Path
    model: Path

    @property
    def rounds(self) -> list[dict[str, Any]]:
        return self.watched.lines[:-1]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.report / "report.json").read_text())
        return found


@pytest.fixture(scope="module")
def studies(
    consortium: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Finished]:
    """A private and a plain study that ran at the same time."""
    made = {}
    for name, training in (("private", PRIVATE), ("plain", PLAIN)):
        place = tmp_path_factory.mktemp(name)
        made[name] = write_patient_study(place, training, name=name)
        consortium.submit(place / "study.toml")
    for name in made:
        consortium.approve(name, *SITES)
    finished = {}
    for name, study in made.items():
        watched = consortium.finish(name)
        out = tmp_path_factory.mktemp("report") / name
        consortium.at_coordinator("study", "report", name, "--out", out)
        model = consortium.export(name, tmp_path_factory.mktemp("model") / name)
        finished[name] = Finished(study, watched, out, model)
    return finished


@pytest.fixture
def private(studies: dict[str, Finished]) -> Finished:
    return studies["private"]


def test_a_study_that_completed_says_so_with_every_round(private: Finished) -> None:
    assert private.watched.code == 0
    assert [line["round"] for line in private.rounds] == [1, 2, 3, 4]
    assert private.watched.lines[-1]["state"] == "completed"
    assert private.watched.lines[-1]["cause"] == ""


def test_the_released_model_is_the_one_that_the_report_names(private: Finished) -> None:
    content, parameters = private.model.read_bytes(), load_file(private.model)
    assert private.data["model"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert private.data["model"]["parameters"] == sum(t.numel() for t in parameters.values()) == 4
    assert "<html" in (private.report / "report.html").read_text()


def test_the_report_that_the_coordinator_wrote_by_itself_holds_the_same(
    private: Finished,
) -> None:
    own = Path(private.watched.lines[-1]["directory"])
    assert not list(own.glob("*.safetensors"))  # a model leaves by its release alone
    assert json.loads((own / "report.json").read_text())["model"] == private.data["model"]


def test_the_model_over_tls_is_that_of_one_process_to_the_last_bit(
    studies: dict[str, Finished], tmp_path: Path
) -> None:
    plain = studies["plain"]
    federation = federate(tmp_path, policy={"allow_unprotected": "true"})
    for site in federation.sites.values():
        approve(site, plain.study)
    expected = run_study(plain.study, federation.desk(plain.study))
    module = build_seeded(plain.study.model, table_layout(3), 1, 0)
    module.load_state_dict(load_file(plain.model))
    assert np.array_equal(arrays.flatten(module), expected)
    assert not np.array_equal(expected, np.zeros_like(expected))


def test_every_site_spent_what_was_agreed_and_nothing_without_privacy(
    consortium: Deployment, private: Finished
) -> None:
    budgets: dict[str, list[dict[str, Any]]] = {}
    each(SITES, lambda name: budgets.update({name: _budget(consortium, name)}))
    for name in SITES:
        (ward,) = (account for account in budgets[name] if account["dataset"] == "ward")
        assert set(ward["by_study"]) == {"private"}
        assert 2.9 < ward["by_study"]["private"] <= 3.0
        (reported,) = (site for site in private.data["sites"] if site["name"] == name)
        assert reported["epsilon_spent"] == pytest.approx(ward["by_study"]["private"], abs=1e-6)
        assert reported["steps"] == 20
        assert (reported["epsilon_cap"], ward["epsilon_cap"]) == (100.0, 100.0)


def test_every_partys_log_verifies_and_says_who_approved(
    consortium: Deployment, private: Finished
) -> None:
    places = [consortium.coordinator, *(consortium.site(name) for name in SITES)]
    logs = {place.name: consortium.events(place) for place in places}
    digest = private.study.digest
    for party, events in logs.items():
        approvals = [e for e in events if e["action"] == "study.approved" and e["study"] == digest]
        assert {event["detail"]["person"] for event in approvals} == {APPROVER}
        assert len(approvals) == (3 if party == "coordinator" else 1)
    for name in SITES:
        spent = [e for e in logs[name] if e["action"] == "privacy.spent" and e["study"] == digest]
        assert [event["round"] for event in spent] == [1, 2, 3, 4]


def test_what_was_seen_on_the_wire_is_modern_tls(consortium: Deployment, private: Finished) -> None:
    assert private.data["proof"]["tls"] in ("TLSv1.2", "TLSv1.3")
    status = consortium.at_coordinator("coordinator", "status")
    assert status["tls"] == private.data["proof"]["tls"]


def test_all_commands_agree_on_who_and_what_there_is(
    consortium: Deployment, studies: dict[str, Finished]
) -> None:
    listed = consortium.at_coordinator("study", "list")["studies"]
    ours = {item["name"]: item for item in listed if item["name"] in studies}
    assert {item["state"] for item in ours.values()} == {"released"}
    assert {n: item["digest"] for n, item in ours.items()} == {
        name: finished.study.digest for name, finished in studies.items()
    }
    members = consortium.at_coordinator("coordinator", "sites")["sites"]
    assert {m["name"]: m["state"] for m in members if m["name"] in SITES} == dict.fromkeys(
        SITES, "online"
    )
    status = consortium.at_coordinator("coordinator", "status")
    assert set(SITES) <= set(status["sites_online"])
    assert status["state"] == "up"

    def look(name: str) -> None:
        here = consortium.at_site(name, "status")
        assert (here["site"], here["state"], here["coordinator"]) == (name, "online", "consortium")
        known = {s["name"]: s for s in consortium.at_site(name, "studies")["studies"]}
        assert {known[study]["state"] for study in studies} == {"ended"}
        sheet = consortium.at_site(name, "review", "private")
        assert sheet["digest"] == studies["private"].study.digest

    each(SITES, look)


def test_after_studies_every_site_has_cosigned_all_that_was_logged(
    consortium: Deployment, private: Finished
) -> None:
    said = consortium.wait_witnessed(*SITES)
    assert (said["unwitnessed"], said["behind"]) == (0, {})

    def look(name: str) -> None:
        here = consortium.at_site(name, "witness")
        assert here["cosigned"] == said["events"]
        assert here["shared"] == here["proven"] == said["sites"][name]["events"] > 10
        assert here["alarms"] == []

    each(SITES, look)


def test_commands_that_are_repeated_change_nothing(
    consortium: Deployment, private: Finished, tmp_path: Path
) -> None:
    again = consortium.at_coordinator("study", "submit", _rewritten(tmp_path, private))
    assert (again["state"], again["event"]) == ("completed", "")
    joined = consortium.at_site("a", "join", consortium.root / "a.invite")
    assert joined["already"] is True


def test_a_study_that_is_over_cannot_be_approved_or_replaced(
    consortium: Deployment, private: Finished, tmp_path: Path
) -> None:
    site = ("--as", APPROVER, "--dir", consortium.site("a"))
    assert "is over" in consortium.fails(2, "site", "approve", "private", *site)
    write_patient_study(tmp_path, PRIVATE.replace("rounds = 4", "rounds = 5"), name="private")
    where = ("--dir", consortium.coordinator)
    said = consortium.fails(2, "study", "submit", tmp_path / "study.toml", *where)
    assert 'another study is named "private"' in said


def _rewritten(directory: Path, finished: Finished) -> Path:
    write_patient_study(directory, PRIVATE, name=finished.study.name)
    return directory / "study.toml"


def _budget(consortium: Deployment, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = consortium.at_site(name, "budget")["datasets"]
    return found
