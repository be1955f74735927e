"""A coordinator's directory with a record of any length, made quickly and in proper form.

Four sites, a study with differential privacy and two without, until the log is as long as was
asked for. In each round of the private study every site pays (`privacy.spent`, with its row of the
ledger) and sends; in the others it only sends; the coordinator aggregates and keeps its record of
the round; every few rounds each site lets the log know the head of its own. What is written is what
daemons would have written, but without running them and without asking a model whether it is so:
that the export can be verified shows it.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests import audited

from cohortium.common.audit import names
from cohortium.common.audit.documents import Documents
from cohortium.common.audit.events import (
    SALT_BYTES,
    UUID7_RANDOM_BYTES,
    leaf_hash,
    os_user,
    timestamp,
    uuid7,
)
from cohortium.common.audit.merkle import Peaks
from cohortium.common.audit.notes import Checkpoint, sign_checkpoint
from cohortium.common.audit.party import open_party
from cohortium.common.database import Database
from cohortium.common.document import canonical, parse
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Spent
from cohortium.common.privacy.ledger_row import Accountant, LedgerRow, Lifetime
from cohortium.common.study import Study
from cohortium.server.config import CoordinatorDir
from cohortium.server.consortium import Consortium
from cohortium.server.database import open_coordinator_database
from cohortium.server.setup import initialise
from cohortium.server.store import RoundRecord, Store

COORDINATOR = "heart-net"
SITES = ("eastfield", "northgate", "southbank", "westhill")
HEADS_EVERY = 5  # rounds
MOST = 26  # events of a round of all studies, with heads, and of the end
EPSILON, CAP, DELTA = 4.0, 8.0, "1e-05"
BEGIN = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)

Json = dict[str, Any]


def make(root: Path, events: int) -> str:
    """Make the directory; the policy by which its exports can be verified, witnesses unasked."""
    initialise(root, COORDINATOR, "127.0.0.1", 9092, 9093, os_user())
    directory = CoordinatorDir(root)
    with open_coordinator_database(directory.database) as database:
        record = _Record(database, SigningKey.load(directory.signing_key), events)
        with database.transaction():
            record.write()
    return open_party(root).policy().replace("quorum hospitals", "quorum none")


def studies() -> tuple[Study, Study, Study]:
    """One with differential privacy and two without."""
    plain = json.loads(canonical(audited.study(SITES)))
    private = {
        "training": {"rounds": 100, "batches": "full"},
        "privacy": {"mechanism": "gaussian", "epsilon": EPSILON, "delta": 1e-5, "clip_norm": 1.0},
    }
    made = ({**plain, "name": "private", **private}, {**plain, "name": "a"}, {**plain, "name": "b"})
    first, second, third = (parse(values, Study, "study") for values in made)
    return first, second, third


class _Record:
    """Writes one log; random numbers come from a seed, times from the number of events."""

    def __init__(self, database: Database, key: SigningKey, events: int) -> None:
        self._database, self._key, self._events = database, key, events
        self._luck = random.Random(events)
        self._keys = {site: SigningKey.generate() for site in SITES}
        self._auth = {site: f"signature:{k.public.fingerprint}" for site, k in self._keys.items()}
        self._numbers = Counter({COORDINATOR: 1})  # `init` has logged one event
        self._heads = dict.fromkeys(SITES, Peaks())
        self._rows = dict.fromkeys(SITES, b"")
        self._documents = Documents(database)
        self._store = Store(database)

    @property
    def _size(self) -> int:
        return self._numbers.total()

    def write(self) -> None:
        private = {study.digest: study.privacy.epsilon is not None for study in studies()}
        self._log(COORDINATOR, "log.started")
        for site, key in self._keys.items():
            self._database.execute(
                "INSERT INTO sites VALUES (?, ?, ?, ?, NULL)",
                (site, site.encode(), key.public.text, int(BEGIN.timestamp() * 1000)),
            )
            detail = {"site": site, "fingerprint": key.public.fingerprint}
            self._log(COORDINATOR, "node.enrolled", detail=detail)
        for study in studies():
            self._store.submit(study, int(self._now.timestamp() * 1000))
            self._log(COORDINATOR, "study.created", study=study.digest)
            for site in SITES:
                detail = {"meaning": "approval of this study", "digest": study.digest}
                self._log(site, "study.approved", study=study.digest, detail=detail)
            self._log(COORDINATOR, "run.started", study=study.digest, detail={"rounds": "100"})
        for round in self._rounds():
            for digest, paid in private.items():
                self._round(digest, round, paid)
            if round % HEADS_EVERY == 0:
                self._own_heads()
        for digest in private:
            self._store.end(digest, "stopped", "", "", int(self._now.timestamp() * 1000))
            self._log(COORDINATOR, "run.stopped", study=digest, detail={"by": "lead"})
        self._sign()

    def _rounds(self) -> Iterator[int]:
        round = 0
        while self._size + MOST <= self._events:
            yield (round := round + 1)

    def _round(self, study: str, round: int, private: bool) -> None:
        spent = self._spent(round) if private else None
        for site in SITES:
            if spent is not None:
                self._pay(site, study, round)
            update = {"t": "update", "h": f"sha256:{self._hex(32)}", "bytes": 28714}
            sent = {"study": study, "round": round, "obj": [update]}
            self._log(site, "round.update.sent", **sent, detail={"kind": "update"})
        detail = {"replied": str(len(SITES)), "seconds": "2.1"}
        self._log(COORDINATOR, "round.aggregated", study=study, round=round, detail=detail)
        record = RoundRecord.model_construct(
            round=round,
            seconds=2.1,
            received={site: {"update": 28970} for site in SITES},
            replied=SITES,
            missing=(),
            refused={},
            spent=dict.fromkeys(SITES, spent) if spent is not None else {},
            evaluations={},
            summary=None,
        )
        self._store.record(study, record)

    def _pay(self, site: str, study: str, round: int) -> None:
        row = canonical(self._ledger_row(site, study, round))
        self._rows[site] = row
        thing = self._documents.keep_text("ledger.row", row)
        detail = {
            "dataset": "ward",
            "row": str(round),
            "kind": "training",
            "epsilon": self._epsilon(round),
            "epsilon_after": self._epsilon(round),
            "cap": str(CAP),
            "delta": DELTA,
            "noise_multiplier": "3.0",
            "steps": "1",
        }
        obj = [{"t": thing.t, "h": thing.h, "bytes": thing.bytes}]
        self._log(site, "privacy.spent", study=study, round=round, obj=obj, detail=detail)

    def _ledger_row(self, site: str, study: str, round: int) -> LedgerRow:
        gaussian = {"type": "Gaussian", "noise_multiplier": "3.0"}
        return LedgerRow.model_construct(
            id=f"{site}-{round}",
            prev=sha256(self._rows[site]).hexdigest() if self._rows[site] else "",
            site=site,
            dataset="ward",
            lineage="ward",
            study=study,
            round=round,
            purpose="training",
            dp={"type": "SelfComposed", "count": 1, "event": gaussian},
            sampler="full-batch",
            sample_rate="1.0",
            noise_multiplier="3.0",
            clip_norm="1.0",
            clipping="flat",
            steps=1,
            steps_planned=self._events,
            rng="aes-256-ctr",
            floating_point="sum of four",
            delta=DELTA,
            epsilon=self._epsilon(round),
            accountant=Accountant(name="dp-accounting", version="0.6.0"),
            lifetime=Lifetime.model_construct(
                before=self._epsilon(round - 1),
                after=self._epsilon(round),
                cap=str(CAP),
                delta=DELTA,
                order="9.0",
                spent=self._epsilon(round),
                limit="6.5",
            ),
            code="0" * 64,
            software={"cohortium": "0.1.0", "torch": "2.9.0"},
            at=timestamp(self._now),
        )

    def _epsilon(self, round: int) -> str:
        """It grows and stays below the study's: nobody computes it again here."""
        return f"{EPSILON * round / (round + 50):.6f}"

    def _spent(self, round: int) -> Spent:
        epsilon = float(self._epsilon(round))
        return Spent.model_construct(
            sampler="full-batch",
            sample_rate=1.0,
            noise_multiplier=3.0,
            steps=1,
            delta=1e-5,
            epsilon=epsilon,
            lifetime_epsilon=epsilon,
            cap_epsilon=CAP,
            cap_delta=1e-5,
        )

    def _own_heads(self) -> None:
        for site in SITES:
            detail = {"size": str(3 * self._numbers[site]), "root": self._hex(32)}
            self._log(site, "log.checkpoint", detail=detail)

    def _log(self, node: str, action: str, **values: Any) -> None:
        """One event, as a party writes it; of a site as the coordinator keeps it."""
        ours, now = node == COORDINATOR, self._now
        actor = {"type": "coordinator", "id": node, "auth": "local"}
        if not ours:
            actor = {"type": "site", "id": node, "auth": self._auth[node]}
        seq = self._numbers[node]
        event = {
            "v": 1,
            "id": uuid7(int(now.timestamp() * 1000), self._luck.randbytes(UUID7_RANDOM_BYTES)),
            "ts": timestamp(now),
            "src": {"org": node, "node": node, "seq": seq},
            "actor": actor,
            "action": action,
            "outcome": "success",
            "salt": self._hex(SALT_BYTES),
            **values,
        }
        line = _json(event)
        leaf = leaf_hash(line)
        if ours:
            self._database.execute("INSERT INTO events VALUES (?, ?, ?)", (seq, line, leaf))
        else:
            self._heads[node] = self._heads[node].plus((leaf,))
            self._database.execute(
                "INSERT INTO consortium VALUES (?, ?, ?, ?, ?)", (self._size, node, seq, line, leaf)
            )
        self._numbers[node] += 1

    @property
    def _now(self) -> datetime:
        return BEGIN + timedelta(milliseconds=700 * self._size)

    def _hex(self, size: int) -> str:
        return self._luck.randbytes(size).hex()

    def _sign(self) -> None:
        """Each site its own events; the coordinator all, so that its tree is there."""
        for site, peaks in self._heads.items():
            head = Checkpoint(names.site_log(COORDINATOR, site), peaks.size, peaks.root)
            note = sign_checkpoint(head, self._keys[site])
            self._database.execute("INSERT INTO site_heads VALUES (?, ?, 0)", (site, note.text))
        Consortium(self._database, self._key, COORDINATOR).checkpoint(0)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
