"""A study goes on from its last state, or from the one before where that is damaged."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from tests.federation import FULL, Federation
from tests.server.test_coordinator import PLAIN, approved, run

from cohortium.common.audit.log import LOG_MIGRATION
from cohortium.common.database import open_database
from cohortium.common.errors import ProtocolError
from cohortium.common.study import Study
from cohortium.server import checkpoints
from cohortium.server.aggregation.optimizer import ServerState
from cohortium.server.checkpoints import Checkpoints
from cohortium.server.database import SCHEMA, open_coordinator_database
from cohortium.server.desk import StudyFailed
from cohortium.server.store import Store


def state(value: float, size: int = 1000) -> ServerState:
    return ServerState.start(np.full(size, value, np.float32))


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    database = open_coordinator_database(tmp_path / "coordinator.db")
    database.execute("PRAGMA foreign_keys = OFF")
    return Checkpoints(database, "study")


def test_what_is_kept_comes_back_whole(kept: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "PART_BYTES", 1000)  # so it takes several
    kept.keep(1, state(1.5))
    assert kept.load(1).model.tobytes() == state(1.5).model.tobytes()
    with pytest.raises(ProtocolError, match="no checkpoint of round 2"):
        kept.load(2)


def test_small_ones_are_all_kept_and_large_ones_are_not(
    kept: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 6):
        kept.keep(number, state(number))
    assert kept.rounds() == [5, 4, 3, 2, 1]
    monkeypatch.setattr(checkpoints, "KEEP_BYTES", 5000)
    kept.keep(6, state(6))
    assert kept.rounds() == [6, 5]


@pytest.mark.parametrize("part", [0, 1, -1])
def test_a_damaged_or_missing_part_is_noticed(
    kept: Checkpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: int
) -> None:
    monkeypatch.setattr(checkpoints, "PART_BYTES", 1000)
    kept.keep(1, state(1.0))
    with sqlite3.connect(tmp_path / "coordinator.db") as raw:
        if part < 0:
            raw.execute("DELETE FROM snapshots WHERE part = (SELECT max(part) FROM snapshots)")
        else:
            zeros = "UPDATE snapshots SET bytes = zeroblob(length(bytes)) WHERE part = ?"
            raw.execute(zeros, (part,))
    with pytest.raises(ProtocolError, match="damaged"):
        kept.load(1)


def damage(federation: Federation, after: int) -> None:
    federation.store.database.execute(
        "UPDATE snapshots SET bytes = zeroblob(9) WHERE round > ?", (after,)
    )


def interrupted(study: Study, federation: Federation, before: int) -> None:
    """As a coordinator leaves it that is killed before it asks for some round."""
    ask = federation.transport.ask
    done = federation.store.rounds

    def die(*arguments: object) -> object:
        if len(done(study.digest)) == before - 1:
            raise KeyboardInterrupt
        return ask(*arguments)  # type: ignore[arg-type]

    federation.transport.ask = die  # type: ignore[assignment,method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(study, federation)
    federation.transport.ask = ask  # type: ignore[method-assign]


@pytest.mark.parametrize("parts", [PLAIN, FULL], ids=["plain", "private"])
def test_a_damaged_last_checkpoint_costs_one_question_and_no_privacy(
    tmp_path: Path, parts: str
) -> None:
    study, federation = approved(tmp_path, parts)
    interrupted(study, federation, before=3)
    before = federation.store.rounds(study.digest)[1].spent
    damage(federation, after=1)
    run(study, federation)
    again = federation.store.rounds(study.digest)
    assert [record.round for record in again] == list(range(1, study.training.rounds + 1))
    assert again[1].spent == before
    if study.privacy.mechanism != "none":
        for site in federation.sites.values():
            entries = [entry.round for entry in site.ledger(study).entries()]
            assert entries == list(range(1, study.training.rounds + 1))


def test_a_damaged_last_checkpoint_changes_no_bit_of_the_model(tmp_path: Path) -> None:
    whole, broken = approved(tmp_path / "whole", PLAIN), approved(tmp_path / "broken", PLAIN)
    interrupted(*broken, before=3)
    damage(broken[1], after=1)
    assert run(*broken).tobytes() == run(*whole).tobytes()


def test_where_all_checkpoints_are_damaged_the_study_ends_and_says_why(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, PLAIN)
    interrupted(study, federation, before=4)
    damage(federation, after=0)
    with pytest.raises(StudyFailed, match=r"refused \(round.past: "):
        run(study, federation)
    assert federation.store.study(study.name).state == "failed"


def test_a_study_begun_by_the_version_before_goes_on(tmp_path: Path) -> None:
    """A database of format 2, in which a study has finished its first round."""
    study, federation = approved(tmp_path, PLAIN)
    interrupted(study, federation, before=2)
    new = tmp_path / "coordinator.db"
    old = tmp_path / "old.db"
    open_database(old, [SCHEMA, LOG_MIGRATION]).close()
    with sqlite3.connect(old) as raw:
        raw.execute("ATTACH ? AS new", (str(new),))
        columns = "digest, name, canonical, state, cause, progress, stop_by, submitted_ms"
        raw.execute(f"INSERT INTO studies ({columns}) SELECT {columns} FROM new.studies")
        for table in ("consents", "rounds", "events"):
            raw.execute(f"INSERT INTO main.{table} SELECT * FROM new.{table}")
        raw.execute("INSERT INTO checkpoints SELECT study, round, bytes FROM new.snapshots")
    federation.store.database.close()
    upgraded = open_coordinator_database(old)
    federation.store = Store(upgraded)
    federation.log = type(federation.log)(upgraded, "c", "c", federation.log._clock)
    run(study, federation)
    assert [r.round for r in federation.store.rounds(study.digest)] == [1, 2, 3, 4][
        : study.training.rounds
    ]


def test_a_site_whose_ledger_went_back_is_named_and_left_out(tmp_path: Path) -> None:
    """As after its database was restored from a backup that is older than the last round."""
    study, federation = approved(tmp_path, FULL)
    interrupted(study, federation, before=3)
    row = federation.store.rounds(study.digest)[1]
    spent = {**row.spent, "b": row.spent["b"].model_copy(update={"steps": 9})}
    federation.store.record(study.digest, row.model_copy(update={"spent": spent}))
    run(study, federation)
    third = federation.store.rounds(study.digest)[2]
    assert third.replied == ("a", "c")
    assert "restored from an old backup?" in third.refused["b"]
