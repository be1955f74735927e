"""From a federation to its report: what is shared, and what stays with the coordinator."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.federation import FULL, Federation, approve, federate, write_study

from cohortium.common.document import parse
from cohortium.common.study import Study
from cohortium.server.config import CoordinatorConfig
from cohortium.server.coordinator import run_study
from cohortium.server.outcome import Evidence, publish
from cohortium.server.release_report import release_report
from cohortium.server.signed import Signatures

NAMES = ("northgate", "harbour", "hillside", "lakeview")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, Study]]:
    """A private study with groups, run to its end by four sites in this process."""
    root = tmp_path_factory.mktemp("federation")
    values = write_study(root, FULL).model_dump()
    values["sites"] |= {"names": NAMES}
    values["evaluation"] |= {"blinded": True, "thresholds": (0.5, 0.3)}
    study = parse(values, Study, "study")
    federation = federate(root, NAMES)
    for site in federation.sites.values():
        approve(site, study)
    run_study(study, federation.desk(study))
    yield federation, study
    federation.close()


def published(done: tuple[Federation, Study], out: Path, *, shared: bool) -> dict[str, str]:
    federation, study = done
    row = federation.store.study(study.name)
    evidence = Evidence(CoordinatorConfig(name="consortium", host="127.0.0.1"), "TLSv1.3", "ab")
    signatures = Signatures(federation.store.database, lambda: federation.key)
    publish(
        row,
        federation.store,
        federation.log,
        evidence,
        out,
        shared_by=federation.key if shared else None,
        release=release_report(row, federation.store, federation.log, signatures),
    )
    return {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()}


def test_a_shared_report_of_a_blinded_study_names_nobody_in_any_file(
    done: tuple[Federation, Study], tmp_path: Path
) -> None:
    files = published(done, tmp_path, shared=True)
    assert len(files) > 20
    for name, text in files.items():
        for needle in (*NAMES, "Dr. Weiss", "127.0.0.1"):
            assert needle.lower() not in text.lower(), f"{needle} in {name}"
    assert "site D" in files["report.html"]


def test_the_coordinator_s_own_report_names_everybody_and_says_whose_it_is(
    done: tuple[Federation, Study], tmp_path: Path
) -> None:
    files = published(done, tmp_path, shared=False)
    assert json.loads(files["report.json"])["blinding"] == "coordinator"
    assert all(name in files["report.html"] for name in (*NAMES, "Dr. Weiss"))
    assert "The coordinator's own copy" in files["report.html"]


def test_what_the_store_holds_is_what_the_report_says(
    done: tuple[Federation, Study], tmp_path: Path
) -> None:
    federation, study = done
    written = json.loads(published(done, tmp_path, shared=False)["report.json"])
    last = federation.store.rounds(study.digest)[-1]
    assert last.summary is not None
    for site in written["sites"]:
        assert site["headline"] == dict(last.summary.sites[site["name"]].headline)
        assert site["epsilon_spent"] == last.spent[site["name"]].epsilon
    assert written["promise"]["spent"] == max(one.epsilon for one in last.spent.values())
    assert {group["attribute"] for group in written["by_group"]} == {"sex", "age"}
    assert written["release"]["state"] == "not released"
    assert {c["attribute"] for c in written["audit"]["contrasts"]} >= {"sex", "age"}
    assert written["worth"]["reason"] == "the study trains no other model to compare with"


def test_pseudonyms_are_the_same_in_every_report_of_a_study(
    done: tuple[Federation, Study], tmp_path: Path
) -> None:
    one = published(done, tmp_path / "one", shared=True)
    two = published(done, tmp_path / "two", shared=True)
    assert one["results.csv"] == two["results.csv"]
