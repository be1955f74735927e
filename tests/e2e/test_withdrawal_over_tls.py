"""A hospital withdraws its data amid a study: it is out at once, and knows which rounds it was in.

The same table has several rows a patient, which count, and are accounted for, as one.
"""

from pathlib import Path

import pytest
from tests.e2e.deployment import APPROVER, Deployment, each, write_patient_study
from tests.federation import PLAIN, SCHEMA, write_ward

from cohortium.common.study import load_study

SITES = ("a", "b", "c")
KEYED = '[table]\npatient_key = "mrn"\nrepeated = "mean"\n\n[columns.age]'
ROUNDS = 10


def write_visits(path: Path, seed: int) -> Path:
    """200 patients of whom every second has three visits."""
    write_ward(path, seed)
    head, *rows = path.read_text().splitlines()
    visits = [
        f"P{number},{row}" for number, row in enumerate(rows) for _ in range(1 + 2 * (number % 2))
    ]
    path.write_text("\n".join([f"mrn,{head}", *visits]) + "\n")
    return path


@pytest.mark.slow
def test_withdrawn_data_is_out_of_a_running_study_at_once_and_the_rounds_that_had_it_are_named(
    consortium: Deployment, tmp_path: Path
) -> None:
    schema = SCHEMA.replace("[columns.age]", KEYED, 1)
    place = tmp_path / "study"
    place.mkdir()
    changes = {'dataset = "ward"': 'dataset = "visits"', "rounds = 4": f"rounds = {ROUNDS}"}
    write_patient_study(place, PLAIN, name="visits", changes=changes)
    (place / "schema.toml").write_text(schema)
    study = load_study(place / "study.toml")
    each(SITES, lambda name: add_visits(consortium, tmp_path, name, schema))
    consortium.submit(place / "study.toml")
    consortium.approve("visits", *SITES)
    watching = consortium.watch("visits")
    watching.wait_for(lambda: sum("c" in line.get("replied", ()) for line in watching.lines) >= 2)
    withdrawn = consortium.at_site("c", "data", "withdraw", "visits", "--as", APPROVER)
    try:
        assert watching.wait(120) == 0, (watching.lines, watching.stderr)
    finally:
        watching.kill_group()
    assert withdrawn["stopped"] == ["visits"]
    rounds = watching.lines[:-1]
    with_c = [line["round"] for line in rounds if "c" in line["replied"]]
    (used,) = withdrawn["used_by"]
    assert used["digest"] == study.digest
    assert used["trained"][: len(with_c)] == with_c == list(range(1, len(with_c) + 1))
    assert len(used["trained"]) - len(with_c) in (0, 1)  # its last update may have come too late
    assert 2 <= len(with_c) < ROUNDS
    heard = consortium.events(consortium.coordinator)
    assert "data.withdrawn" in {e.get("reason") for e in heard if e.get("study") == study.digest}
    assert sorted(rounds[-1]["replied"]) == ["a", "b"]
    known = {item["digest"]: item for item in consortium.at_site("c", "studies")["studies"]}
    assert known[study.digest]["state"] == "stopped"
    retired = [e for e in consortium.events(consortium.site("c")) if e["id"] == withdrawn["event"]]
    assert [(e["action"], e["detail"]["person"]) for e in retired] == [
        ("dataset.retired", APPROVER)
    ]
    again = consortium.at_site("c", "data", "withdraw", "visits", "--as", "somebody else")
    assert again == {**withdrawn, "stopped": []}


def add_visits(consortium: Deployment, place: Path, name: str, schema: str) -> None:
    table = write_visits(place / f"{name}.csv", ord(name))
    added = consortium.add_data(name, "visits", table, schema)
    assert (added["patients"], added["rows"]) == (200, 400)
