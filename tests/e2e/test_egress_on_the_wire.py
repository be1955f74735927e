"""Real daemons, and a tap on the plaintext side of TLS: no planted secret is in what left."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.deployment import Deployment, each, write_patient_study
from tests.e2e.recorder import Recorder, recorder
from tests.federation import PRIVATE, write_ward
from tests.needles import images, packed, spellings

from cohortium.client.cohort import load_table, prepare
from cohortium.client.config import SiteDir
from cohortium.common.identity import SigningKey, load_node_key
from cohortium.common.study import Study
from cohortium.server.config import CoordinatorDir

SITES = ("kestrel", "osprey")
CELL = "Jane-Doe-1971-02-29"
COLUMN = "hiv_status_of_ward_7"
FOLDER = "Ward-of-Doctor-Fell"
FILE = "Kowalska-1953"
BROKEN = "Nowak-1949-positive"
RAISED = "Raised-about-Mrs-Smith"
PRINTED = "Printed-about-Mr-Jones"
AGE, MARKER = 83.4375, 7.7345219  # one patient's, unlike all others

# Loaded by Python before our training process runs: a library that turned against the hospital.
SABOTAGE = f"""
import os, sys
if "cohortium.client.worker" in sys.orig_argv and os.path.exists({{trigger!r}}):
    from cohortium.client import local_round
    train = local_round.train

    def poisoned_train(study, cohort, start, round_number, *rest):
        print("{PRINTED}", file=sys.stderr)
        print("{PRINTED}")
        if round_number > 1:
            raise KeyError("{RAISED}")
        return train(study, cohort, start, round_number, *rest)

    def poisoned_evaluate(*_):
        raise ValueError("{RAISED}", 12.5)

    local_round.train, local_round.evaluate = poisoned_train, poisoned_evaluate
"""


@dataclass(frozen=True)
class Tapped:
    """A consortium behind taps, after all of its studies have ended."""

    made: Deployment
    taps: tuple[Recorder, ...]
    study: Study

    def found(self, needles: Iterable[bytes]) -> list[bytes]:
        """Which needles stand in what left, also as a header's Huffman code would have them."""
        hay = [part for tap in self.taps for part in tap.everything()]
        coded = [part for tap in self.taps for part in tap.header_blocks()]
        wanted = list(needles)
        assert min(map(len, wanted)) >= 4, "too short to be found by anything but chance"
        plain = [needle for needle in wanted if any(needle in part for part in hay)]
        headers = [
            needle
            for needle in wanted
            for code in packed(needle)
            if any(code in part for part in coded)
        ]
        return plain + headers


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tapped]:
    root = tmp_path_factory.mktemp("tapped")
    trigger = root / "sabotage"
    (root / "hooks").mkdir()
    (root / "hooks" / "sitecustomize.py").write_text(SABOTAGE.format(trigger=str(trigger)))
    made = Deployment(root)
    try:
        made.start_coordinator()
        ports = CoordinatorDir(made.coordinator).load_config()
        with (
            recorder(made.coordinator, root, f"127.0.0.1:{ports.fleet_port}") as fleet,
            recorder(made.coordinator, root, f"127.0.0.1:{ports.enrolment_port}") as enrolment,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("PYTHONPATH", str(root / "hooks"), prepend=os.pathsep)
            each(SITES, lambda name: enter(made, name, fleet, enrolment))
            for name in SITES:
                made.start_site(name)
            for name in SITES:
                made.daemons[name].wait_state("online")
            study = run_whole(made, root)
            run_into_walls(made, root, trigger)
            for name in SITES:
                made.daemons[name].end()
            yield Tapped(made, (fleet, enrolment), study)
    finally:
        made.close()


def enter(made: Deployment, name: str, fleet: Recorder, enrolment: Recorder) -> None:
    """Join by way of the taps, with a table in which every name and cell could betray somebody."""
    invitation = made.invite(name)
    target, tap = enrolment.target, enrolment.address
    text = invitation.read_text()
    assert target in text
    invitation.write_text(text.replace(target, tap))
    made.at_site(name, "join", invitation)
    config = made.site(name) / "site.toml"
    config.write_text(
        config.read_text()
        .replace(fleet.target, fleet.address)
        .replace("purposes = []", 'purposes = ["HMB"]')
    )
    made.add_data(name, "ward", write_table(made, name))


def table_of(made: Deployment, name: str) -> Path:
    return made.root / name / FOLDER / f"{FILE}.csv"


def write_table(made: Deployment, name: str, age: str = repr(AGE)) -> Path:
    path = table_of(made, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ward(path, seed=sum(map(ord, name)))
    head, *rows = path.read_text().splitlines()
    rows[7] = ",".join([age, "1", repr(MARKER), "1"])
    lines = [f"{head},{COLUMN}", *(f"{row},{CELL}" for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_wire_study(made: Deployment, root: Path, name: str, **changes: str) -> Study:
    place = root / name
    place.mkdir()
    sites = {'names = ["a", "b", "c"]': f'names = ["{SITES[0]}", "{SITES[1]}"]'}
    return write_patient_study(place, PRIVATE, name=name, changes={**sites, **changes})


def run_whole(made: Deployment, root: Path) -> Study:
    study = write_wire_study(made, root, "whole")
    made.submit(root / "whole" / "study.toml")
    made.approve("whole", *SITES)
    assert made.finish("whole").code == 0
    return study


def run_into_walls(made: Deployment, root: Path, trigger: Path) -> None:
    """One study meets a broken cell and a table that is gone, the next a library that betrays."""
    hasty = {"round_deadline = 60.0": "round_deadline = 20.0"}
    write_table(made, SITES[0], BROKEN)
    for name in ("broken", "betrayed"):
        write_wire_study(made, root, name, **hasty)
        made.submit(root / name / "study.toml")
        if name == "betrayed":
            write_table(made, SITES[0])
            write_table(made, SITES[1])
            trigger.touch()
        made.approve(name, *SITES)
        if name == "broken":
            table_of(made, SITES[1]).unlink()
        assert made.finish(name).code != 0
    log = "".join((made.site(name) / "worker.log").read_text() for name in SITES)
    assert PRINTED in log
    refused = [
        e for s in SITES for e in made.events(made.site(s)) if e["action"] == "round.refused"
    ]
    assert {event["reason"] for event in refused} >= {"data.unfit", "site.cannot"}, refused


def test_no_text_of_a_patient_or_a_path_is_in_any_byte_that_left(tapped: Tapped) -> None:
    secrets = [CELL, COLUMN, FOLDER, FILE, BROKEN, RAISED, PRINTED, str(tapped.made.root)]
    assert tapped.found(needle for text in secrets for needle in spellings(text)) == []
    traces = [b"Traceback", b"local_round", b"KeyError", b"ValueError", b"sitecustomize"]
    assert tapped.found(traces) == []


def test_no_number_of_a_patient_left_as_text_or_float_raw_or_as_it_is_trained_on(
    tapped: Tapped,
) -> None:
    needles = [*spellings(repr(AGE)), *spellings(repr(MARKER)), *images(AGE, 1.0, MARKER)]
    needles += images(MARKER)
    for name in SITES:
        dataset = SiteDir(tapped.made.site(name)).load_dataset("ward")
        cohort = prepare(load_table(tapped.study, dataset, name), tapped.study, name)
        rows = [*cohort.features, *cohort.test_features]
        assert len(rows) == 200
        needles += [image for row in rows for image in images(*row)]
    assert tapped.found(needles) == []


def test_no_private_key_left(tapped: Tapped) -> None:
    for name in SITES:
        directory = SiteDir(tapped.made.site(name))
        seed = SigningKey.load(directory.signing_key)._key.private_bytes_raw()
        number = load_node_key(directory.node_key).private_numbers().private_value
        for secret in (seed, number.to_bytes(48, "big")):
            needles = [secret, secret[::-1], secret.hex().encode()]
            assert tapped.found(needles) == []


def test_what_does_leave_is_found_by_the_same_search(tapped: Tapped) -> None:
    """A site's name in envelopes, a study's digest, the word for a refusal, gRPC's own headers."""
    for text in (SITES[0], SITES[1], tapped.study.digest, "data.unfit", "grpc-python"):
        assert tapped.found([text.encode()]) == [text.encode()], text
    assert len(b"".join(bytes(part) for tap in tapped.taps for part in tap.sent)) > 50_000


def test_a_text_in_a_compressed_header_would_be_found() -> None:
    example = bytes.fromhex("f1e3c2e5f23a6ba0ab90f4ff")  # "www.example.com", RFC 7541, C.4.1
    assert next(packed(b"www.example.com")) in example
    coded = int.from_bytes(example, "big") >> 3
    assert any(code in coded.to_bytes(12, "big") for code in packed(b"example"))
