"""Whoever withdraws a dataset learns, at both sides, which models know it and who has them."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.federation import (
    COORDINATOR,
    PLAIN,
    Federation,
    approve,
    coordinate,
    make_site,
    write_study,
)

from cohortium.client import withdrawal
from cohortium.client.site import Site
from cohortium.common.audit.events import os_user
from cohortium.common.cli import main
from cohortium.common.identity import SigningKey
from cohortium.common.study import Study
from cohortium.server import successor
from cohortium.server.consortium import Consortium
from cohortium.server.coordinator import run_study
from cohortium.server.database import open_coordinator_database
from cohortium.server.opened import Opened, open_coordinator
from cohortium.server.setup import initialise

OPEN = {"allow_unprotected": "true"}


@dataclass
class Home:
    opened: Opened
    federation: Federation
    model: str  # of the first study, over its parameters


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A study of a, b and c, released and downloaded; then one without c, from its second round."""
    root = tmp_path_factory.mktemp("home")
    initialise(root / "home", COORDINATOR, "127.0.0.1", 9092, 9093, os_user())
    with (opened := open_coordinator(root / "home")).database:
        key = SigningKey.load(opened.directory.signing_key)
        sites = {n: make_site(root / n, n, key.public, policy=OPEN) for n in ("a", "b", "c")}
        federation = coordinate(root, key, sites)
        federation.store.database.close()
        federation.store, federation.log = opened.store, opened.log
        study = write_study(root, PLAIN)
        model = train(federation, study)
        said = ("--as", "Dr. E. Haddad", "--reason", "a test")
        where = ("--dir", str(root / "home"))
        for words in (
            ("study", "release", study.name, *said, "--override"),
            ("study", "export", study.name, "--out", str(root / "out")),
        ):
            code = call(*words, *where)
            if code == 2:  # no flag is open
                assert call("study", "release", study.name, *said[:2], *where) == 0
        row = opened.store.study(study.name)
        train(federation, successor.without(row, "c", 3, opened.store))
        yield Home(opened, federation, model)


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def train(federation: Federation, study: Study) -> str:
    for name in study.sites.names:
        approve(federation.sites[name], study)
    model = run_study(study, federation.desk(study))
    return hashlib.sha256(model.astype("<f4").tobytes()).hexdigest()


def touched(
    capsys: pytest.CaptureFixture[str], home: Home, *words: str, code: int = 0
) -> dict[str, Any]:
    with pytest.raises(SystemExit, match=f"^{code}$"):
        main(["study", "touched", *words, "--dir", str(home.opened.directory.root), "--json"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_it_lists_rounds_models_release_downloads_and_what_went_on_from_them(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    found = touched(capsys, home, "ward", "--site", "c")
    first, heir = found["touched"]
    assert (first["study"], first["rounds"], first["from_round"]) == ("ward-study", [1, 2, 3, 4], 1)
    assert first["models"]["4"] == home.model
    assert first["released_by"] == "Dr. E. Haddad"
    assert [download["recipient"] for download in first["downloads"]] == [os_user().id]
    file = home.opened.directory.root.parent / "out" / "model.safetensors"
    assert first["final"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (heir["study"], heir["through"]) == ("ward-study-without-c", "ward-study")
    assert (heir["rounds"], heir["released_by"]) == ([], "")
    assert found["withdrawn"] == ""


def test_of_a_site_that_is_in_both_studies_both_are_its_own(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    found = touched(capsys, home, "ward", "--site", "a")
    assert [(one["rounds"], one["through"]) for one in found["touched"]] == [
        ([1, 2, 3, 4], ""),
        ([1, 2], ""),
    ]


def test_a_site_or_dataset_that_no_study_asked_is_said(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("ward", "--site", "nobody"), ("wards", "--site", "a")):
        assert "no study here asked" in touched(capsys, home, *words, code=2)["error"]


def test_the_hashes_at_the_site_are_those_of_the_coordinator(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    (used,) = [u for u in withdrawal.usage(home.federation.sites["c"], "ward") if u.models]
    known = touched(capsys, home, "ward", "--site", "c")["touched"][0]["models"]
    assert list(used.models) == [known[str(number)] for number in (1, 2, 3, 4)]


def test_a_withdrawal_that_the_site_shared_is_told_until_it_registers_the_dataset_again(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    site = home.federation.sites["b"]
    key = home.federation.key
    consortium = Consortium(home.opened.database, key, COORDINATOR)
    event = withdrawal.withdraw(site, "ward", "Dr. Weiss").event
    consortium.take("b", unsent(site, consortium))
    found = touched(capsys, home, "ward", "--site", "b")
    assert found["event"] == event
    assert found["withdrawn"]
    assert touched(capsys, home, "ward", "--site", "c")["withdrawn"] == ""
    site.log.append("dataset.registered", actor=site.actor, detail={"dataset": "ward"})
    consortium.take("b", unsent(site, consortium))
    assert touched(capsys, home, "ward", "--site", "b")["withdrawn"] == ""


def unsent(site: Site, consortium: Consortium) -> list[str]:
    rows = site.database.execute(
        "SELECT line FROM shared WHERE seq >= ? ORDER BY seq", (consortium.have(site.name),)
    )
    return [row["line"] for row in rows]


def test_a_database_of_before_knows_no_former_keys_and_is_brought_up_to_date(
    tmp_path: Path,
) -> None:
    with open_coordinator_database(tmp_path / "c.db") as database:
        names = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    assert {"former_keys", "noticed"} <= names
