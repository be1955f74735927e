"""The coordinator's one SQLite file."""

from pathlib import Path

from cohortium.common.audit import tables
from cohortium.common.audit.log import LOG_MIGRATION
from cohortium.common.database import Database, open_database

SCHEMA = """
CREATE TABLE invitations (
    site TEXT PRIMARY KEY,
    token_sha256 TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    used_ms INTEGER
) STRICT;
CREATE TABLE sites (
    name TEXT PRIMARY KEY,
    node_key BLOB NOT NULL UNIQUE,
    signing_key TEXT NOT NULL UNIQUE,
    enrolled_ms INTEGER NOT NULL,
    revoked_ms INTEGER
) STRICT;
CREATE TABLE studies (
    digest TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    canonical BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('submitted', 'running', 'completed', 'failed', 'stopped')),
    cause TEXT NOT NULL,
    progress TEXT NOT NULL,
    stop_by TEXT NOT NULL,
    statistics TEXT,
    submitted_ms INTEGER NOT NULL,
    ended_ms INTEGER
) STRICT;
CREATE TABLE consents (
    study TEXT NOT NULL REFERENCES studies (digest),
    site TEXT NOT NULL,
    decision TEXT NOT NULL,
    body BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (study, site)
) STRICT;
CREATE TABLE rounds (
    study TEXT NOT NULL REFERENCES studies (digest),
    round INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (study, round)
) STRICT;
CREATE TABLE checkpoints (
    study TEXT PRIMARY KEY REFERENCES studies (digest),
    round INTEGER NOT NULL,
    state BLOB NOT NULL
) STRICT;
"""

# A checkpoint in parts, for SQLite holds no value above 1 GB; several, for one may be damaged or
# a study begun again from an earlier one. How a study ended, what to do, and which sites know it.
CHECKPOINTS_AND_ENDINGS = """
CREATE TABLE snapshots (
    study TEXT NOT NULL REFERENCES studies (digest),
    round INTEGER NOT NULL,
    part INTEGER NOT NULL,
    sha256 BLOB,
    bytes BLOB NOT NULL,
    PRIMARY KEY (study, round, part)
) STRICT;
INSERT INTO snapshots SELECT study, round, 0, NULL, state FROM checkpoints;
DROP TABLE checkpoints;
ALTER TABLE studies ADD COLUMN next_step TEXT NOT NULL DEFAULT '';
ALTER TABLE studies ADD COLUMN resumed_after INTEGER NOT NULL DEFAULT 0;
CREATE TABLE farewells (
    study TEXT NOT NULL REFERENCES studies (digest),
    site TEXT NOT NULL,
    told_ms INTEGER NOT NULL,
    PRIMARY KEY (study, site)
) STRICT;
"""

# Which flags were raised, and what persons signed: rows are only ever added.
RELEASES = """
CREATE TABLE flags (
    study TEXT NOT NULL REFERENCES studies (digest),
    digest TEXT NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (study, digest)
) STRICT;
CREATE TABLE signed (
    seq INTEGER PRIMARY KEY,
    study TEXT NOT NULL REFERENCES studies (digest),
    kind TEXT NOT NULL CHECK (kind IN ('disposition', 'release')),
    flag TEXT NOT NULL,
    document BLOB NOT NULL,
    signature BLOB NOT NULL,
    event TEXT NOT NULL
) STRICT;
CREATE TRIGGER signed_is_never_changed BEFORE UPDATE ON signed
BEGIN SELECT raise(ABORT, 'what was signed is never changed'); END;
CREATE TRIGGER signed_is_never_deleted BEFORE DELETE ON signed
BEGIN SELECT raise(ABORT, 'what was signed is never deleted'); END;
"""


# The consortium's log: our own events, which join it as they are written, and those that sites
# share. Of ours only the leaf is here. What sites say of their own logs and cosign of this one.
CONSORTIUM = """
CREATE TABLE consortium (
    seq INTEGER PRIMARY KEY,
    node TEXT NOT NULL,
    node_seq INTEGER NOT NULL,
    line TEXT,
    leaf BLOB NOT NULL CHECK (length(leaf) = 32),
    UNIQUE (node, node_seq)
) STRICT;
INSERT INTO consortium SELECT seq, '', seq, NULL, leaf FROM events ORDER BY seq;
CREATE TRIGGER our_events_join AFTER INSERT ON events BEGIN
    INSERT INTO consortium
    SELECT coalesce(max(seq) + 1, 0), '', NEW.seq, NULL, NEW.leaf FROM consortium;
END;
CREATE TRIGGER consortium_has_no_gap BEFORE INSERT ON consortium
WHEN NEW.seq <> (SELECT coalesce(max(seq) + 1, 0) FROM consortium)
BEGIN SELECT raise(ABORT, 'the next event must follow the last'); END;
CREATE TRIGGER consortium_is_never_changed BEFORE UPDATE ON consortium
WHEN NEW.line IS NOT '' OR NEW.seq <> OLD.seq OR NEW.leaf <> OLD.leaf OR NEW.node <> OLD.node
    OR NEW.node_seq <> OLD.node_seq
BEGIN SELECT raise(ABORT, 'an event is never changed'); END;
CREATE TRIGGER consortium_is_never_deleted BEFORE DELETE ON consortium
BEGIN SELECT raise(ABORT, 'an event is never deleted'); END;
CREATE TABLE notes (
    size INTEGER PRIMARY KEY,
    note TEXT NOT NULL,
    made_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE cosignatures (
    size INTEGER NOT NULL REFERENCES notes (size),
    site TEXT NOT NULL,
    line TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (size, site)
) STRICT;
CREATE TABLE site_heads (
    site TEXT PRIMARY KEY,
    note TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE behind (
    site TEXT PRIMARY KEY,
    note TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE origins (
    number INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,
    head TEXT NOT NULL,
    begun_ms INTEGER NOT NULL
) STRICT;
"""

# The keys that a site had before it joined again under its name: they verify what it signed then,
# and are never enrolled anew.
FORMER_KEYS = """
CREATE TABLE former_keys (
    site TEXT NOT NULL,
    node_key BLOB NOT NULL UNIQUE,
    signing_key TEXT NOT NULL UNIQUE,
    enrolled_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL
) STRICT;
"""


def open_coordinator_database(path: Path) -> Database:
    """Open coordinator.db, creating or upgrading it."""
    record = [tables.TREE, tables.REDACTION, tables.DOCUMENTS, tables.STREAMS, CONSORTIUM]
    before = [SCHEMA, LOG_MIGRATION, CHECKPOINTS_AND_ENDINGS, RELEASES]
    evidence = [tables.SEALS, FORMER_KEYS, tables.NOTICED]
    return open_database(path, [*before, *record, *evidence])
