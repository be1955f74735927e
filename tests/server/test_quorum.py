"""Who is missing: a round goes on, waits or stops as the study says, and names the site."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.federation import Federation, InProcessSites, approve, federate, write_study
from tests.server.test_coordinator import LOOSE, PLAIN

from cohortium.common import bands
from cohortium.common.study import Study
from cohortium.server.coordinator import run_study
from cohortium.server.desk import StudyFailed

MISSING = "[sites]\n"
Silent = Callable[[str, int], bool]


@dataclass
class Unreliable:
    """Sites of which some do not answer the `n`-th request, from 1, that reaches them."""

    honest: InProcessSites
    silent: Silent
    asked: int = 0

    def ask(
        self, heads: Mapping[str, bytes], body: bytes, deadline_s: float
    ) -> Iterator[tuple[str, bytes]]:
        self.asked += 1
        present = {name: head for name, head in heads.items() if not self.silent(name, self.asked)}
        yield from self.honest.ask(present, body, deadline_s)


def prepared(root: Path, silent: Silent, **sites: Any) -> tuple[Study, Federation]:
    """A study approved by a, b and c, some of which fall silent after the invitation."""
    root.mkdir(exist_ok=True)
    study = write_study(root, PLAIN, round_deadline=0.3)
    changed = study.sites.model_copy(update=sites)
    study = study.model_copy(update={"sites": changed})
    federation = federate(root, policy=LOOSE, patients=60)
    for site in federation.sites.values():
        approve(site, study)
    federation.transport = Unreliable(federation.transport, silent)  # type: ignore[assignment]
    return study, federation


def rounds(study: Study, federation: Federation) -> list[tuple[str, ...]]:
    return [record.replied for record in federation.store.rounds(study.digest)]


def c_is_silent(name: str, asked: int) -> bool:
    return name == "c" and asked > 1


def c_is_silent_for_a_while(name: str, asked: int) -> bool:
    return name == "c" and 2 <= asked <= 6


def test_with_the_quorum_a_round_goes_on_without_who_is_missing(tmp_path: Path) -> None:
    study, federation = prepared(tmp_path, c_is_silent)
    run_study(study, federation.desk(study))
    assert rounds(study, federation) == [("a", "b")] * 3
    assert [r.missing for r in federation.store.rounds(study.digest)] == [("c",)] * 3
    dropped = [event for event in federation.log.events() if event.action == "node.dropped"]
    assert [(e.round, e.reason, e.detail["site"]) for e in dropped] == [
        (number, "reply.late", "c") for number in (1, 2, 3)
    ]


def test_a_study_that_waits_gives_the_bits_that_it_gives_undisturbed(tmp_path: Path) -> None:
    whole = prepared(tmp_path / "whole", lambda *_: False, on_missing="wait")
    broken = prepared(tmp_path / "broken", c_is_silent_for_a_while, on_missing="wait")
    models = [run_study(study, f.desk(study)).tobytes() for study, f in (whole, broken)]
    assert models[0] == models[1]
    assert rounds(*broken) == [("a", "b", "c")] * 3


def test_a_study_that_waits_waits_below_the_quorum_too(tmp_path: Path) -> None:
    def all_silent(name: str, asked: int) -> bool:
        return 2 <= asked <= 8

    study, federation = prepared(tmp_path, all_silent, on_missing="wait")
    run_study(study, federation.desk(study))
    assert rounds(study, federation) == [("a", "b", "c")] * 3


def test_who_waits_says_for_whom(tmp_path: Path) -> None:
    study, federation = prepared(tmp_path, c_is_silent_for_a_while, on_missing="wait")
    said: list[str] = []
    desk = federation.desk(study)
    say = desk.store.say

    def listen(digest: str, progress: str) -> None:
        said.append(progress)
        say(digest, progress)

    desk.store.say = listen  # type: ignore[method-assign]
    run_study(study, desk)
    assert "round 1 of 3, training: waiting for a, b, c" in said
    assert "round 1 of 3, training: waiting for c" in said


def test_a_study_may_stop_when_anybody_is_missing(tmp_path: Path) -> None:
    study, federation = prepared(tmp_path, c_is_silent, on_missing="stop")
    with pytest.raises(StudyFailed, match=r'on_missing = "stop"; no reply within 0.3 s from c$'):
        run_study(study, federation.desk(study))
    row = federation.store.study(study.name)
    assert row.state == "failed"
    assert row.next_step.endswith(f"cohortium study resume {study.name}")


def test_a_study_that_waits_does_not_wait_for_who_has_left_for_good(tmp_path: Path) -> None:
    study, federation = prepared(tmp_path, lambda *_: False, on_missing="wait", min_sites=3)
    site = federation.sites["c"]
    honest = federation.transport

    def leave(heads: Mapping[str, bytes], body: bytes, deadline_s: float) -> Any:
        if site.studies.all() and site.studies.all()[0].state == "approved":
            site.studies.mark(study.digest, "stopped", "stopped by Dr. Weiss")
        return honest.honest.ask(heads, body, deadline_s)  # type: ignore[attr-defined]

    honest.ask = leave  # type: ignore[method-assign]
    with pytest.raises(StudyFailed, match=r"2 of the 3 sites needed replied; c refused \(study"):
        run_study(study, federation.desk(study))


def test_patients_are_counted_by_the_lower_ends_of_public_bands(tmp_path: Path) -> None:
    """60 patients, of whom about 42 train: the band is 20 to 49 or 50 to 99 whatever the split."""
    study, federation = prepared(tmp_path, c_is_silent, min_patients=3 * 50 + 1)
    with pytest.raises(StudyFailed, match=r"those who replied have (40|100) of the 151 patients"):
        run_study(study, federation.desk(study))
    few, federation = prepared(tmp_path / "few", c_is_silent, min_patients=40)
    run_study(few, federation.desk(few))


@pytest.mark.parametrize("patients", [1, 9, 10, 99, 100, 123_456])
def test_what_a_site_may_say_of_its_size_is_read_back_as_its_lower_end(patients: int) -> None:
    assert bands.least(bands.text(patients)) == bands.band(patients)[0]


@pytest.mark.parametrize("said", ["", "1000000-1000001", "99999999", "100-199 ", "many"])
def test_a_size_that_is_no_band_counts_nothing(said: str) -> None:
    assert bands.least(said) == 0
