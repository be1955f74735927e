"""What both parties' databases hold of the record beside its events (`log.LOG_MIGRATION`)."""

# Complete subtrees of a Merkle tree, from level 1 on: level 0 is the leaves of the table `log`.
TREE = """
CREATE TABLE tree (
    log TEXT NOT NULL,
    level INTEGER NOT NULL CHECK (level > 0),
    position INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (log, level, position)
) STRICT, WITHOUT ROWID;
"""

# An event may be withheld for good, and then only its leaf is left: nothing else of it may change.
REDACTION = """
DROP TRIGGER events_are_never_changed;
CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
WHEN NEW.line <> '' OR NEW.seq <> OLD.seq OR NEW.leaf <> OLD.leaf
BEGIN SELECT raise(ABORT, 'an event is never changed'); END;
"""
SHARED_REDACTION = REDACTION.replace("events", "shared")

# What events point to by hash, as canonical JSON: rows of the privacy ledger, results of audits.
DOCUMENTS = """
CREATE TABLE documents (
    h TEXT PRIMARY KEY,
    t TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""

# What was last seen of things that change without a command of ours (`noticing.py`).
NOTICED = """
CREATE TABLE noticed (
    what TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""

# How far each receiver of a stream of events has got: the next event to send.
STREAMS = """
CREATE TABLE streams (
    target TEXT PRIMARY KEY,
    next INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

# Which exports were sealed, by the SHA-256 (hex) of their manifest and by the signer's public key.
SEALS = """
CREATE TABLE seals (
    manifest TEXT NOT NULL,
    key TEXT NOT NULL,
    event TEXT NOT NULL,
    esignature TEXT NOT NULL,
    PRIMARY KEY (manifest, key)
) STRICT, WITHOUT ROWID;
"""
