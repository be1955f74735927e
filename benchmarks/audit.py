"""A log of a million events: what appending, a proof and an export cost, and how they grow.

    python -m benchmarks.audit [--events 1000000] [--batch 1000] [--json]

One party's event log in SQLite, on the disk of the temporary directory, with the settings of a
site: rollback journal, `synchronous=EXTRA`. Events are as a site writes them, about 400 bytes.
They are appended `batch` to a transaction; what one event to a transaction costs is measured on a
sample and *extrapolated*, as `extrapolated_s` says. At every power of ten: the tree over what is
new, a signed checkpoint, proofs that an event is there and that the log only grew (medians of many,
at random places), checking them, and reading the whole log again as a daemon does when it starts.

Then whole exports of a coordinator's directory, and their verification (`exports.py`), from 10,000
events on; of a million they take gigabytes of memory, so that is measured when it is asked for.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from benchmarks import exports
from cohortium.common.audit import merkle, tables
from cohortium.common.audit.events import Actor
from cohortium.common.audit.integrity import Anchor, require_whole
from cohortium.common.audit.log import LOG_MIGRATION, EventLog
from cohortium.common.audit.notes import Checkpoint, cosign, log_key, read_note, sign_checkpoint
from cohortium.common.audit.tree import Tree
from cohortium.common.database import Database, open_database
from cohortium.common.identity import SigningKey

T = TypeVar("T")
R = TypeVar("R")
SITE = Actor(type="site", id="northgate", auth="signature:SHA256:" + "x" * 43)
STUDY = "5" * 64
ORIGIN = "northgate.cohortium/log"
PROOFS = 200  # of each kind, at random places
SAMPLE = 200  # events, one to a transaction


@dataclass(frozen=True)
class Size:
    """A log of so many events; times of one proof are medians, in microseconds."""

    events: int
    file_mb: float
    append_s: float
    grow_s: float
    checkpoint_ms: float
    checkpoint_bytes: int
    inclusion_us: float
    inclusion_bytes: int
    consistency_us: float
    consistency_bytes: int
    check_inclusion_us: float
    check_consistency_us: float
    whole_s: float


@dataclass(frozen=True)
class Run:
    """All sizes; `one_by_one` is per event, in seconds, and `extrapolated_s` what a million cost.

    verify_s: reading every event of the largest log, checking each against the vocabulary.
    """

    batch: int
    sizes: tuple[Size, ...]
    one_by_one: float
    extrapolated_s: float
    verify_s: float
    exported: tuple[exports.Export, ...] = ()


def main() -> int:
    options = _options()
    with TemporaryDirectory() as folder:
        run = measure(Path(folder) / "site.db", options.events, options.batch)
        exported = exports.measure(Path(folder), options.events)
        run = replace(run, exported=tuple(exported))
    print(json.dumps(asdict(run), indent=1) if options.json else _text(run))
    return 0


def measure(path: Path, events: int, batch: int) -> Run:
    """Grow a log to `events`, stopping at each power of ten."""
    key = SigningKey.generate()
    with open_database(path, [LOG_MIGRATION, tables.TREE]) as database:
        log = EventLog(database, "northgate", "northgate", lambda: datetime.now(UTC))
        one_by_one = _seconds(lambda: _append(database, log, SAMPLE, 1)) / SAMPLE
        sizes = [_measured(database, log, key, size, batch) for size in _sizes(events)]
        verify_s = _seconds(log.verify)
    return Run(batch, tuple(sizes), one_by_one, one_by_one * events, verify_s)


def _sizes(events: int) -> Iterator[int]:
    size = 1000
    while size < events:
        yield size
        size *= 10
    yield events


def _measured(database: Database, log: EventLog, key: SigningKey, size: int, batch: int) -> Size:
    tree, luck = Tree(database, "events"), random.Random(size)
    more = size - tree.size()
    append_s = _seconds(lambda: _append(database, log, more, batch))
    grow_s = _seconds(lambda: tree.grow(size))
    text = ""

    def checkpoint() -> None:
        nonlocal text
        note = sign_checkpoint(Checkpoint(ORIGIN, size, tree.root(size)), key)
        text = note.with_([cosign(note.body, "a/witness", key, 1)]).text
        assert read_note(text, "checkpoint").signed_by(
            log_key("northgate.cohortium/log", key.public)
        )

    checkpoint_s = _seconds(checkpoint)
    root, places = tree.root(size), [luck.randrange(1, size) for _ in range(PROOFS)]
    leaves = [_leaf(database, place) for place in places]
    roots = [tree.root(place) for place in places]
    inclusions, inclusion_us = _each(places, lambda at: tree.inclusion(at, size))
    consistencies, consistency_us = _each(places, lambda at: tree.consistency(at, size))
    proven = zip(leaves, places, inclusions, strict=True)
    held, check_inclusion_us = _each(
        list(proven), lambda one: merkle.includes(one[0], one[1], size, one[2], root)
    )
    shown = zip(places, roots, consistencies, strict=True)
    grown, check_consistency_us = _each(
        list(shown), lambda one: merkle.grew(one[0], size, one[1], root, one[2])
    )
    assert all(held)
    assert all(grown)
    return Size(
        events=size,
        file_mb=database.path.stat().st_size / 1e6,
        append_s=append_s,
        grow_s=grow_s,
        checkpoint_ms=1000 * checkpoint_s,
        checkpoint_bytes=len(text.encode()),
        inclusion_us=inclusion_us,
        inclusion_bytes=max(map(len, inclusions)) * merkle.HASH_BYTES,
        consistency_us=consistency_us,
        consistency_bytes=max(map(len, consistencies)) * merkle.HASH_BYTES,
        check_inclusion_us=check_inclusion_us,
        check_consistency_us=check_consistency_us,
        whole_s=_seconds(lambda: require_whole(database, {"events": Anchor(size, root)})),
    )


def _append(database: Database, log: EventLog, events: int, batch: int) -> None:
    while events > 0:
        with database.transaction():
            for number in range(min(batch, events)):
                log.append(
                    "round.task.received",
                    actor=SITE,
                    study=STUDY,
                    round=number,
                    detail={"kind": "train"},
                )
        events -= batch


def _leaf(database: Database, place: int) -> bytes:
    return bytes(database.execute("SELECT leaf FROM events WHERE seq = ?", (place,))[0]["leaf"])


def _each(given: Sequence[T], work: Callable[[T], R]) -> tuple[list[R], float]:
    """What the work makes of each, and its median time in microseconds."""
    made, times = [], []
    for one in given:
        start = time.perf_counter()
        made.append(work(one))
        times.append(time.perf_counter() - start)
    return made, 1e6 * statistics.median(times)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _text(run: Run) -> str:
    head = (
        f"{'events':>9} {'file':>8} {'append':>9} {'tree':>8} {'checkpoint':>15} "
        f"{'inclusion':>16} {'consistency':>16} {'check both':>11} {'whole':>7}"
    )
    rows = [
        f"{size.events:9,} {size.file_mb:5.0f} MB {size.append_s:7.1f} s {size.grow_s:6.2f} s "
        f"{size.checkpoint_ms:5.1f} ms {size.checkpoint_bytes:4} B "
        f"{size.inclusion_us:6.0f} us {size.inclusion_bytes:4} B "
        f"{size.consistency_us:6.0f} us {size.consistency_bytes:4} B "
        f"{size.check_inclusion_us + size.check_consistency_us:8.0f} us {size.whole_s:5.1f} s"
        for size in run.sizes
    ]
    alone = (
        f"appended {run.batch} to a transaction; one to a transaction takes "
        f"{1000 * run.one_by_one:.1f} ms on a sample of {SAMPLE}: "
        f"{run.extrapolated_s / 60:.0f} min for all (extrapolated)"
    )
    read = f"reading all and checking each against the vocabulary: {run.verify_s:.0f} s"
    return "\n".join([head, *rows, alone, read, "", exports.text(run.exported)])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A log of a million events")
    parser.add_argument("--events", type=int, default=100_000, help="size of the largest log")
    parser.add_argument("--batch", type=int, default=1000, help="events to a transaction")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
