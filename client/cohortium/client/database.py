"""The site's one SQLite file: what must survive a power cut, in one place, in one transaction."""

from pathlib import Path

from cohortium.common.audit import tables
from cohortium.common.audit.log import LOG_MIGRATION, SHARED_MIGRATION
from cohortium.common.database import Database, open_database

SCHEMA = """
CREATE TABLE studies (
    digest TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    canonical BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'approved', 'rejected', 'stopped', 'ended')),
    note TEXT NOT NULL,
    received_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE approvals (
    digest TEXT NOT NULL REFERENCES studies (digest),
    person TEXT NOT NULL,
    document BLOB NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (digest, person)
) STRICT;
CREATE TABLE replies (
    study TEXT NOT NULL,
    round INTEGER NOT NULL,
    kind TEXT NOT NULL,
    request_sha256 BLOB NOT NULL,
    reply_kind TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (study, round, kind)
) STRICT;
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    study TEXT NOT NULL,
    round INTEGER NOT NULL,
    mechanism TEXT NOT NULL,
    spent_ms INTEGER NOT NULL,
    UNIQUE (study, round)
) STRICT;
CREATE TABLE reservations (
    study TEXT PRIMARY KEY,
    dataset TEXT NOT NULL,
    mechanism TEXT NOT NULL,
    reserved_ms INTEGER NOT NULL,
    released_ms INTEGER
) STRICT;
CREATE TRIGGER ledger_is_append_only_u BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END;
CREATE TRIGGER ledger_is_append_only_d BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END;
"""

CLOCK = """
CREATE TABLE clock (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    newest_ms INTEGER NOT NULL
) STRICT;
"""
# A large reply in parts: SQLite copies each value that it is given several times over.
PARTS = """
CREATE TABLE reply_parts (
    study TEXT NOT NULL,
    round INTEGER NOT NULL,
    kind TEXT NOT NULL,
    part INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (study, round, kind, part),
    FOREIGN KEY (study, round, kind) REFERENCES replies (study, round, kind) ON DELETE CASCADE
) STRICT;
"""
# What a site keeps for itself of a study: no message carries it.
OWN = """
CREATE TABLE results (
    study TEXT PRIMARY KEY,
    document TEXT NOT NULL,
    made_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE personal_models (
    study TEXT NOT NULL,
    part INTEGER NOT NULL,
    round INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (study, part)
) STRICT;
"""
# A study may pay for training and for its evaluation, in one round: rows of both, each once.
PURPOSES = """
CREATE TABLE ledger_by_purpose (
    id INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    study TEXT NOT NULL,
    round INTEGER NOT NULL,
    mechanism TEXT NOT NULL,
    spent_ms INTEGER NOT NULL,
    purpose TEXT NOT NULL DEFAULT 'training',
    UNIQUE (study, round, purpose)
) STRICT;
INSERT INTO ledger_by_purpose (id, dataset, study, round, mechanism, spent_ms)
SELECT id, dataset, study, round, mechanism, spent_ms FROM ledger;
DROP TABLE ledger;
ALTER TABLE ledger_by_purpose RENAME TO ledger;
CREATE TRIGGER ledger_is_append_only_u BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END;
CREATE TRIGGER ledger_is_append_only_d BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END;
CREATE TABLE reservations_by_purpose (
    study TEXT NOT NULL,
    dataset TEXT NOT NULL,
    mechanism TEXT NOT NULL,
    reserved_ms INTEGER NOT NULL,
    released_ms INTEGER,
    purpose TEXT NOT NULL DEFAULT 'training',
    PRIMARY KEY (study, purpose)
) STRICT;
INSERT INTO reservations_by_purpose (study, dataset, mechanism, reserved_ms, released_ms)
SELECT study, dataset, mechanism, reserved_ms, released_ms FROM reservations;
DROP TABLE reservations;
ALTER TABLE reservations_by_purpose RENAME TO reservations;
"""


# What the site has cosigned of the consortium's log, and proof where it was shown two of them.
# `row` of the ledger is what events name by hash; rows from before it have none.
WITNESS = """
CREATE TABLE cosigned (
    size INTEGER PRIMARY KEY,
    note TEXT NOT NULL,
    cosigned_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE equivocations (
    id INTEGER PRIMARY KEY,
    ours TEXT NOT NULL,
    theirs TEXT NOT NULL,
    found_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE included (
    seq INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,
    size INTEGER NOT NULL,
    path TEXT NOT NULL,
    proven_ms INTEGER NOT NULL
) STRICT;
ALTER TABLE ledger ADD COLUMN row TEXT NOT NULL DEFAULT '';
"""
# What another program said of a plan when it was set aside (`CrossCheck`), for each of its rows.
CROSS_CHECKS = "ALTER TABLE reservations ADD COLUMN cross_check TEXT NOT NULL DEFAULT '';"
# Our own shared events that the consortium gives back after a loss, until all of them are here.
RETURNED = """
CREATE TABLE returned (
    seq INTEGER PRIMARY KEY,
    line TEXT NOT NULL,
    leaf BLOB NOT NULL CHECK (length(leaf) = 32)
) STRICT;
"""
# What of a study's model does not travel each round, as it came and as it is now.
HELD = """
CREATE TABLE held_parameters (
    study TEXT NOT NULL,
    part INTEGER NOT NULL,
    came_sha256 BLOB NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (study, part)
) STRICT;
"""


def open_site_database(path: Path) -> Database:
    """Open site.db, creating or upgrading it."""
    record = [tables.TREE, tables.REDACTION, tables.DOCUMENTS, tables.STREAMS]
    before = [SCHEMA, LOG_MIGRATION, CLOCK, PARTS, OWN, PURPOSES]
    evidence = [SHARED_MIGRATION, WITNESS, CROSS_CHECKS, tables.SEALS, tables.SHARED_REDACTION]
    return open_database(path, [*before, *record, *evidence, tables.NOTICED, RETURNED, HELD])
