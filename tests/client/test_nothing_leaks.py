"""Secrets are planted wherever a patient could stand, and looked for in every byte that left."""

import base64
import json
import math
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.federation import (
    FULL,
    PLAIN,
    PRIVATE,
    Federation,
    approve,
    federate,
    write_study,
    write_ward,
)
from tests.needles import images, spellings

from cohortium.client import local_round
from cohortium.client.site import Site
from cohortium.client.workshop import Inline
from cohortium.common.cli import main
from cohortium.common.envelope import unseal
from cohortium.common.errors import CohortiumError, DataError
from cohortium.common.study import Study
from cohortium.server.coordinator import run_study

OPEN = {"allow_unprotected": "true"}
COLUMNS = ("age", "sex", "marker", "ill", "note")
SECRET = "Jane-Doe-1971-02-29"
AGE, MARKER = 83.4375, 7.7345219  # one patient's, unlike all others


def left(federation: Federation) -> list[bytes]:
    """Every reply, as it went over the wire."""
    return [reply for _, _, reply in federation.transport.wire]


def found(needles: Iterable[bytes], federation: Federation) -> list[bytes]:
    """Which of them stand in a byte that left."""
    replies = left(federation)
    assert replies
    return [needle for needle in needles if any(needle in reply for reply in replies)]


def run(federation: Federation, study: Study) -> None:
    """A whole study at sites that approve it, however it ends."""
    for site in federation.sites.values():
        approve(site, study)
    assert SECRET not in end(federation, study)


def end(federation: Federation, study: Study) -> str:
    """Run a study; returns the cause of its failure, or nothing."""
    try:
        run_study(study, federation.desk(study))
    except CohortiumError as error:
        return str(error)
    return ""


def kinds(federation: Federation) -> set[str]:
    return {
        unseal(reply, federation.sites[name].key.public)[0].kind
        for name, _, reply in federation.transport.wire
    }


def plant(site: Site, column: str, cell: str, row: int = 7) -> None:
    """Write one cell of a table that has a column `note` which no schema knows."""
    table = site.directory.root / "ward.csv"
    head, *rows = [line.split(",") for line in table.read_text().splitlines()]
    cells = [[*row[:4], ""] for row in rows]
    cells[row][COLUMNS.index(column)] = cell
    lines = [",".join(line) for line in [[*head[:4], "note"], *cells]]
    table.write_text("\n".join(lines) + "\n")


def logs(federation: Federation) -> str:
    return "".join(e.line for site in federation.sites.values() for e in site.log.events())


# ------------------------------------------------------------------ cells


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    federation = federate(tmp_path_factory.mktemp("ward"), policy=OPEN)
    yield federation
    federation.close()


@settings(max_examples=12, deadline=None)
@given(
    column=st.sampled_from(COLUMNS),
    text=st.text("abcdefghXYZ0123456789 -_.;|äß中", min_size=4, max_size=40),
    number=st.integers(0, 10**6),
)
def test_no_text_in_a_cell_leaves_whatever_column_it_stands_in(
    ward: Federation, column: str, text: str, number: int
) -> None:
    site, secret = ward.sites["a"], f"Jane{text}Q7x"
    ward.transport.wire.clear()
    write_ward(site.directory.root / "ward.csv", seed=number)
    plant(site, column, secret)
    study = write_study(ward.root, PLAIN, name=f"s{len(site.studies.all())}")
    run(ward, study)
    assert found(spellings(secret), ward) == []
    assert secret not in logs(ward)
    assert "update" in kinds(ward)


@pytest.mark.parametrize("kind", [FULL, PRIVATE, PLAIN])
def test_no_patients_numbers_leave_neither_raw_nor_as_they_are_trained_on(
    tmp_path: Path, kind: str
) -> None:
    study = write_study(tmp_path, kind)
    federation = federate(tmp_path, policy=OPEN)
    rows = []
    for site in federation.sites.values():
        plant(site, "age", repr(AGE))
        plant(site, "marker", repr(MARKER))
        assert isinstance(site.workshop, Inline)
        site.workshop.prepare(study)
        ((_, cohort),) = site.workshop.cohorts.values()
        rows += [row for part in (cohort.features, cohort.test_features) for row in part]
        site.workshop.close(study.digest)
    run(federation, study)
    assert {"update", "evaluated"} <= kinds(federation)
    assert len(rows) == 600
    secrets = [*spellings(repr(AGE)), *spellings(repr(MARKER)), *images(AGE), *images(MARKER)]
    assert found(secrets, federation) == []
    assert found((image for row in rows for image in images(*row)), federation) == []


# ------------------------------------------------------------------ exceptions, names, notes


@pytest.mark.parametrize("error", [KeyError, ValueError, OSError, DataError, CohortiumError])
def test_no_text_of_an_exception_in_training_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def poisoned(*_: Any) -> None:
        raise error(SECRET)

    study = write_study(tmp_path, FULL)
    federation = federate(tmp_path)
    monkeypatch.setattr(local_round, "train", poisoned)
    run(federation, study)
    assert "refusal" in kinds(federation)
    assert "update" not in kinds(federation)
    traces = [b"Traceback", b"local_round", b"poisoned", error.__name__.encode()]
    assert found([*spellings(SECRET), *traces], federation) == []
    assert SECRET not in logs(federation)


@pytest.mark.parametrize("there", [True, False])
def test_no_name_of_a_table_or_folder_leaves(tmp_path: Path, there: bool) -> None:
    study = write_study(tmp_path, FULL)
    federation = federate(tmp_path)
    for site in federation.sites.values():
        root = site.directory.root
        (root / "Ward-of-Doctor-Fell").mkdir()
        table = (root / "ward.csv").rename(root / "Ward-of-Doctor-Fell" / f"{SECRET}.csv")
        config = site.directory.dataset("ward")
        config.write_text(
            config.read_text().replace("ward.csv", f"Ward-of-Doctor-Fell/{SECRET}.csv")
        )
        approve(site, study)
        if not there:
            table.unlink()
    assert SECRET not in end(federation, study)
    assert ("update" in kinds(federation)) == there
    assert ("refusal" in kinds(federation)) != there
    needles = [*spellings(SECRET), *spellings("Ward-of-Doctor-Fell"), str(tmp_path).encode()]
    assert found(needles, federation) == []


def test_of_a_rejection_only_who_said_no_leaves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, FULL)
    federation = federate(tmp_path)
    site = federation.sites["a"]
    site.studies.receive(study, 0)
    root = str(site.directory.root)
    with pytest.raises(SystemExit, match="0"):
        main(["site", "reject", study.name, "--as", "Dr. Weiss", "--dir", root, "--json"])
    event = json.loads(capsys.readouterr().out)["event"]
    for name in ("b", "c"):
        approve(federation.sites[name], study)
    run_study(study, federation.desk(study))
    said = next(reply for name, _, reply in federation.transport.wire if name == "a")
    fields = message(said, site)
    assert (fields["rule"], fields["explanation"]) == ("study.rejected", "rejected by Dr. Weiss")
    (recorded,) = [e for e in site.log.events() if e.id == event]
    assert recorded.reason is not None
    assert found([*spellings(event), recorded.reason.encode(), root.encode()], federation) == []


# ------------------------------------------------------------------ counts


def message(reply: bytes, site: Site) -> Any:
    """The JSON fields of a reply."""
    _, body = unseal(reply, site.key.public)
    (length,) = struct.unpack(">I", body[:4])
    return json.loads(bytes(body[4 : 4 + length]))


def numbers(fields: Any) -> Iterator[float]:
    """Every number in a JSON value, written as a number or as text."""
    if isinstance(fields, dict):
        yield from numbers([*fields, *fields.values()])
    elif isinstance(fields, list):
        for item in fields:
            yield from numbers(item)
    elif isinstance(fields, int | float) or str(fields).isdecimal():
        yield float(fields)


@pytest.mark.parametrize("kind", [FULL, PRIVATE])
@pytest.mark.parametrize("patients", [187, 260])
def test_no_exact_number_of_training_patients_leaves_a_private_study(
    tmp_path: Path, kind: str, patients: int
) -> None:
    study = write_study(tmp_path, kind)
    federation = federate(tmp_path, patients=patients)
    exact = {name: site.workshop.prepare(study).patients for name, site in federation.sites.items()}
    run(federation, study)
    assert kinds(federation) >= {"consent", "update", "evaluated"}
    for name, _, reply in federation.transport.wire:
        said = set(numbers(message(reply, federation.sites[name])))
        assert not {exact[name], patients} & said
        assert not any(math.isclose(1 / exact[name], value, rel_tol=1e-9) for value in said)


def test_the_search_itself_finds_what_it_is_for(tmp_path: Path) -> None:
    federation = federate(tmp_path, ("a",))
    raw, values = SECRET.encode(), np.array([AGE, MARKER])
    for hidden in (
        b"x" + raw,
        raw.hex().encode(),
        *(base64.b64encode(b"x" * shift + raw + b"yy") for shift in range(5)),
        values.astype("<f4").tobytes(),
        values.astype(">f8").tobytes(),
    ):
        federation.transport.wire[:] = [("a", b"", b"\x01" + hidden + b"\x02")]
        assert found([*spellings(SECRET), *images(AGE, MARKER)], federation)
