"""SIGKILL before and after every durable step: the study goes on, and ends as if undisturbed."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.faults.mortal import (
    ALL,
    COORDINATOR,
    KEY,
    KILLED,
    MODEL,
    Life,
    Nursery,
    nursery,
    open_federation,
)
from tests.federation import FULL, PLAIN, Federation, approve, federate, write_study

from cohortium.common.audit.log import EventLog
from cohortium.common.study import Study, load_study
from cohortium.server.store import RoundRecord

pytestmark = pytest.mark.slow

SITES = ("a", "b")
ROUNDS = [1, 2]
PARTS = (ALL, COORDINATOR, "b")
UNCALIBRATED = "\n[evaluation]\ncurves = false\n"  # the steps of calibration pay nothing


@pytest.fixture(scope="module")
def nurse() -> Iterator[Nursery]:
    with nursery() as made:
        yield made


@dataclass(frozen=True)
class Calm:
    """A study that is approved and has not begun, and how it ends when nobody dies."""

    template: Path
    study: Study
    rounds: list[RoundRecord]
    model: list[float]
    steps: list[str]


def calm(nurse: Nursery, place: Path, training: str, part: str) -> Calm:
    template = place / "template"
    study = found(template, training)
    root = shutil.copytree(template, place / "calm")
    live(nurse, root, Life(str(root), part))
    with_sites = open_federation(root)
    rounds = with_sites.store.rounds(study.digest)
    with_sites.close()
    steps = json.loads((root / f"{part}.steps").read_text())
    return Calm(template, study, rounds, np.load(root / MODEL).tolist(), steps)


def found(root: Path, training: str) -> Study:
    """Two sites that have approved a study of two rounds, all closed."""
    root.mkdir()
    rounds = write_study(root, training).training.rounds
    text = (root / "study.toml").read_text().replace('["a", "b", "c"]', '["a", "b"]')
    (root / "study.toml").write_text(text.replace(f"rounds = {rounds}", f"rounds = {ROUNDS[-1]}"))
    study = load_study(root / "study.toml")
    federation = federate(root, SITES, policy={"allow_unprotected": "true"})
    federation.key.save(root / KEY)
    for site in federation.sites.values():
        approve(site, study)
    federation.close()
    return study


def live(nurse: Nursery, root: Path, doomed: Life) -> None:
    """Lead the study to its end, with one process that does not live to see it; start it again."""
    others = [Life(str(root), name) for name in SITES if name != doomed.part != ALL]
    running = [nurse.start(life) for life in others]
    if doomed.part in (ALL, COORDINATOR):
        if doomed.die_at:
            assert nurse.lead(doomed) == KILLED
        assert nurse.lead(Life(str(root), doomed.part)) == 0
    else:
        victim, coordinator = nurse.start(doomed), nurse.start(Life(str(root), COORDINATOR))
        if doomed.die_at:
            assert nurse.wait(victim) == KILLED
            victim = nurse.start(Life(str(root), doomed.part))
        assert nurse.wait(coordinator) == 0
        running.append(victim)
    for pid in running:
        nurse.end(pid)


def deaths(part: str, steps: list[str]) -> Iterator[tuple[int, bool]]:
    """Before and after each step; where all live in one process, after one is before the next."""
    for number in range(1, len(steps) + 1):
        yield number, False
        if part != ALL or number == len(steps):
            yield number, True


@pytest.mark.timeout(600)  # dozens of whole studies
@pytest.mark.parametrize("part", PARTS)
def test_killed_at_any_step_a_study_ends_with_the_same_model(
    nurse: Nursery, tmp_path: Path, part: str
) -> None:
    undisturbed = calm(nurse, tmp_path, PLAIN, part)
    for number, after in deaths(part, undisturbed.steps):
        where = f"{'after' if after else 'before'} {number}: {undisturbed.steps[number - 1]}"
        root = shutil.copytree(undisturbed.template, tmp_path / f"{number}-{after}")
        live(nurse, root, Life(str(root), part, number, after))
        assert np.load(root / MODEL).tolist() == undisturbed.model, where
        federation = open_federation(root)
        assert timeless(federation, undisturbed.study) == [
            record.model_copy(update={"seconds": 0.0}) for record in undisturbed.rounds
        ], where
        assert_ended_once(federation, undisturbed.study, where)
        federation.close()
        shutil.rmtree(root)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", PARTS)
def test_killed_at_any_step_a_private_study_pays_each_round_once(
    nurse: Nursery, tmp_path: Path, part: str
) -> None:
    undisturbed = calm(nurse, tmp_path, FULL + UNCALIBRATED, part)
    for number, after in deaths(part, undisturbed.steps):
        where = f"{'after' if after else 'before'} {number}: {undisturbed.steps[number - 1]}"
        root = shutil.copytree(undisturbed.template, tmp_path / f"{number}-{after}")
        live(nurse, root, Life(str(root), part, number, after))
        federation = open_federation(root)
        assert [record.spent for record in timeless(federation, undisturbed.study)] == [
            record.spent for record in undisturbed.rounds
        ], where
        assert_ended_once(federation, undisturbed.study, where)
        for site in federation.sites.values():
            ledger = site.ledger(undisturbed.study)
            assert [entry.round for entry in ledger.entries()] == ROUNDS, where
            assert rounds_of(site.log, "privacy.spent") == ROUNDS, where
            assert ledger.reserved() == {}, where
        federation.close()
        shutil.rmtree(root)


def timeless(federation: Federation, study: Study) -> list[RoundRecord]:
    rounds = federation.store.rounds(study.digest)
    return [record.model_copy(update={"seconds": 0.0}) for record in rounds]


def assert_ended_once(federation: Federation, study: Study, where: str) -> None:
    """It completed, every log holds together, and nothing in them happened twice."""
    assert federation.store.study(study.name).state == "completed", where
    federation.log.verify()
    assert rounds_of(federation.log, "round.aggregated") == ROUNDS, where
    assert len(rounds_of(federation.log, "run.completed")) == 1, where
    for site in federation.sites.values():
        site.log.verify()
        assert rounds_of(site.log, "round.update.sent") == ROUNDS, where
        assert rounds_of(site.log, "evaluation.completed") == ROUNDS, where
        assert site.studies.by_digest(study.digest).state == "ended", where


def rounds_of(log: EventLog, action: str) -> list[int | None]:
    return [event.round for event in log.events() if event.action == action]
