"""A small consortium's evidence, really logged, signed, cosigned and packed; and ways to forge it.

Three sites, a private study and one without privacy. Events are written by the real logs in real
databases; what an attacker could do who owns some of the keys is done with `packed`.
"""

import contextlib
import functools
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests import audited

from cohortium.client.database import open_site_database
from cohortium.common.audit import bundle, merkle, names, verify
from cohortium.common.audit.documents import Documents
from cohortium.common.audit.events import (
    Actor,
    Event,
    Source,
    Thing,
    leaf_hash,
    read_event,
    timestamp,
    uuid7,
)
from cohortium.common.audit.evidence import Audience, Entry, ESignature, Evidence, StudyFacts
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.notes import Checkpoint, Note, cosign, sign_checkpoint
from cohortium.common.document import canonical, parse
from cohortium.common.fairness.audit import audit
from cohortium.common.identity import SigningKey
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.privacy import accounting
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.ledger_row import Accountant, LedgerRow, Lifetime
from cohortium.common.privacy.selftest import Selftest
from cohortium.common.study import Study
from cohortium.server.consortium import Consortium
from cohortium.server.database import open_coordinator_database

COORDINATOR = "centre"
SITES = ("north", "south", "west")
OFFICER = "R. Meyer"
MEANING = "export of this evidence"
DELTA, CAP = 1e-5, 8.0
STEP = Mechanism(sampler="full-batch", sample_rate=1.0, noise_multiplier=3.0, steps=1)
ROUNDS = 3
FAIRNESS = {"attributes": ["sex", "insurance"], "reference": {"sex": "male"}}
BEGIN = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
BUNDLE, POLICY = "bundle.zip", "policy.txt"

Lines = Sequence[str]


class Clock:
    """A second later each time it is looked at."""

    def __init__(self, now: datetime = BEGIN) -> None:
        self.now = now

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@dataclass(frozen=True)
class Made:
    """Everything that happened, and everybody's key."""

    keys: Mapping[str, SigningKey]
    evidence: Evidence
    lines: tuple[str, ...]
    shared: Mapping[str, tuple[str, ...]]
    own: Mapping[str, tuple[str, ...]]
    policy: str

    @functools.cached_property
    def content(self) -> dict[str, bytes]:
        """The files that the manifest lists."""
        return content_of(self.evidence)


@dataclass(frozen=True)
class Ran:
    """How a verification ended, and what it printed."""

    code: int
    out: str

    @property
    def failure(self) -> str:
        """The first line that begins with FAIL, without the mark."""
        return next((line[10:] for line in self.out.splitlines() if line.startswith("FAIL")), "")


# ------------------------------------------------------------------ what happened


@functools.cache
def made() -> Made:
    """The same for every test: nobody may change it."""
    with tempfile.TemporaryDirectory() as folder:
        return _happen(Path(folder))


def studies() -> tuple[Study, Study]:
    """A private one, and one without privacy."""
    plain = json.loads(canonical(audited.study(SITES, FAIRNESS)))
    values = {
        **plain,
        "name": "private",
        "training": {"rounds": ROUNDS, "batches": "full"},
        "privacy": {"mechanism": "gaussian", "epsilon": 4.0, "delta": DELTA, "clip_norm": 1.0},
    }
    return parse(values, Study, "study"), parse({**plain, "name": "open"}, Study, "study")


@functools.cache
def evaluations() -> dict[str, SiteEvaluation]:
    """Of each site; the south does not show one group."""
    found = {
        site: audited.evaluation(audited.ward(seed, 400, harder="female"))
        for seed, site in enumerate(SITES)
    }
    for site, one in found.items():
        groups = {name: one.groups[name] for name in ("sex", "insurance")}
        found[site] = one.model_copy(update={"groups": groups})
    groups = dict(found["south"].groups)
    less = {**groups, "insurance": {**groups["insurance"], "none": audited.hidden()}}
    found["south"] = found["south"].model_copy(update={"groups": less})
    return found


class _Site:
    """One site's logs in its own database."""

    def __init__(self, root: Path, name: str, clock: Clock) -> None:
        self.name, self.key = name, SigningKey.generate()
        self.actor = Actor(type="site", id=name, auth=f"signature:{self.key.public.fingerprint}")
        self.database = open_site_database(root / f"{name}.db")
        self.log = EventLog(self.database, name, name, clock, shares_as=self.actor)
        self.shared = EventLog(self.database, name, name, clock, table="shared")
        self.documents = Documents(self.database)
        self.rows: list[LedgerRow] = []

    def spend(self, study: Study, round: int) -> None:
        row = ledger_row(self.name, study.digest, round, self.rows[-1] if self.rows else None)
        self.rows.append(row)
        self.log.append(
            "privacy.spent",
            actor=self.actor,
            study=study.digest,
            round=round,
            obj=(self.documents.keep("ledger.row", row),),
            detail={
                "dataset": row.dataset,
                "row": row.id.rpartition("-")[2],
                "kind": row.purpose,
                "epsilon": row.epsilon,
                "epsilon_after": row.lifetime.after,
                "cap": row.lifetime.cap,
                "delta": row.lifetime.delta,
                "noise_multiplier": row.noise_multiplier,
                "steps": str(row.steps),
            },
        )


def ledger_row(site: str, study: str, round: int, before: LedgerRow | None) -> LedgerRow:
    """What the round after `before` costs: the same mechanism in each."""
    spent, at = _epsilon(round - 1), BEGIN + timedelta(minutes=round)
    order = accounting.filter_order(CAP, DELTA)
    gaussian = {"type": "Gaussian", "noise_multiplier": "3.0"}
    return LedgerRow(
        id=f"{site}-{round}",
        prev=verify.sha256(canonical(before)) if before else "",
        site=site,
        dataset="ward",
        lineage="ward",
        study=study,
        round=round,
        purpose="training",
        dp={"type": "SelfComposed", "count": STEP.steps, "event": gaussian},
        sampler="full-batch",
        sample_rate="1.0",
        noise_multiplier="3.0",
        clip_norm="1.0",
        clipping="flat",
        steps=STEP.steps,
        steps_planned=ROUNDS * STEP.steps,
        rng="aes-256-ctr",
        floating_point="sum of four",
        delta="1e-05",
        epsilon=_epsilon(round),
        accountant=Accountant(name="dp-accounting", version="0.6.0"),
        lifetime=Lifetime(
            before=spent,
            after=_epsilon(round),
            cap="8.0",
            delta="1e-05",
            order=str(order),
            spent=f"{accounting.filter_spent([STEP] * round, order):.6f}",
            limit=f"{accounting.filter_limit(CAP, DELTA, order):.6f}",
        ),
        code="0" * 64,
        software={"cohortium": "0.1.0"},
        at=timestamp(at),
    )


@functools.cache
def _epsilon(rounds: int) -> str:
    return f"{accounting.epsilon([STEP] * rounds, DELTA):.6f}"


def selftest(site: str, verdict: str = "passed") -> Selftest:
    values = {
        "site": site,
        "level": "L0",
        "verdict": verdict,
        "words": "noise, clipping and sampling are as they should be",
        "checks": {"noise": "ok"},
        "code": "0" * 64,
        "at": timestamp(BEGIN),
    }
    return parse(values, Selftest, "selftest")


def _happen(root: Path) -> Made:
    clock, key = Clock(), SigningKey.generate()
    database = open_coordinator_database(root / "coordinator.db")
    log = EventLog(database, COORDINATOR, COORDINATOR, clock)
    consortium = Consortium(database, key, COORDINATOR)
    sites = {name: _Site(root, name, clock) for name in SITES}
    actor = Actor(type="coordinator", id=COORDINATOR, auth="local")

    def hand_over() -> None:
        with database.transaction():
            for name, site in sites.items():
                have = consortium.have(name)
                consortium.take(name, [event.line for event in site.shared.events(have)])

    log.append("log.started", actor=actor)
    for name, site in sites.items():
        detail = {"site": name, "fingerprint": site.key.public.fingerprint}
        log.append("node.enrolled", actor=actor, detail=detail)
        site.log.append("log.started", actor=site.actor)
    private, plain = studies()
    for study in (private, plain):
        log.append("study.created", actor=actor, study=study.digest)
        for site in sites.values():
            site.log.append(
                "study.approved",
                actor=site.actor,
                study=study.digest,
                detail={"person": "Dr. Weiss", "digest": study.digest},
            )
        hand_over()
        log.append("run.started", actor=actor, study=study.digest, detail={"rounds": "3"})
        for round in range(1, ROUNDS + 1):
            for site in sites.values():
                if study is private:
                    site.spend(study, round)
                _sent(site, study, round, "round.update.sent", "update")
            log.append("round.aggregated", actor=actor, study=study.digest, round=round)
            hand_over()
        for site in sites.values():
            _sent(site, study, ROUNDS, "evaluation.completed", "evaluated")
        hand_over()
        log.append("run.completed", actor=actor, study=study.digest)
    tests = []
    for site in sites.values():
        tests.append(selftest(site.name))
        site.log.append(
            "privacy.selftest",
            actor=site.actor,
            obj=(site.documents.keep("selftest", tests[-1]),),
            detail={"level": "L0", "verdict": "passed"},
        )
    for site in sites.values():
        _anchor(site, clock)
    hand_over()
    found = Made(
        keys={COORDINATOR: key, **{name: site.key for name, site in sites.items()}},
        evidence=_evidence(consortium, sites, tests),
        lines=tuple(one.line for one in consortium.logged()),
        shared={n: tuple(e.line for e in site.shared.events()) for n, site in sites.items()},
        own={n: tuple(e.line for e in site.log.events()) for n, site in sites.items()},
        policy=consortium.policy({name: site.key.public for name, site in sites.items()}),
    )
    database.close()
    for site in sites.values():
        site.database.close()
    return found


def _sent(site: _Site, study: Study, round: int, action: Any, kind: str) -> None:
    thing = Thing(t=kind, h="sha256:" + verify.sha256(f"{site.name} {round}".encode()), bytes=9)
    site.log.append(action, actor=site.actor, study=study.digest, round=round, obj=(thing,))


def _anchor(site: _Site, clock: Clock) -> None:
    """The head of a site's own log, in its shared one."""
    leaves = [event.leaf for event in site.log.events()]
    detail = {"size": str(len(leaves)), "root": merkle.root_of(leaves).hex()}
    site.shared.append("log.checkpoint", actor=site.actor, detail=detail)


def _evidence(
    consortium: Consortium, sites: Mapping[str, _Site], tests: Iterable[Selftest]
) -> Evidence:
    facts = tuple(
        StudyFacts(
            study=study,
            digest=study.digest,
            state="completed",
            cause="",
            submitted_at=timestamp(BEGIN),
            ended_at=timestamp(BEGIN),
            evaluations=evaluations(),
            audit=audit(study, evaluations()),
        )
        for study in studies()
    )
    return Evidence(
        audience="regulator",
        role="coordinator",
        node=COORDINATOR,
        consortium=COORDINATOR,
        origin=consortium.origin,
        at=timestamp(BEGIN + timedelta(hours=1)),
        since="",
        until="",
        officer=OFFICER,
        log_key=consortium.log_key.text,
        witnesses={},
        entries=(),
        sites=(),
        studies=facts,
        ledger=tuple(row for site in sites.values() for row in site.rows),
        selftests=tuple(tests),
        software={},
        code="0" * 64,
        version="0.1.0",
    )


# ------------------------------------------------------------------ packing, rightly or not


def content_of(evidence: Evidence) -> dict[str, bytes]:
    """Our own files, and some as other writers would add."""
    return {
        **bundle.own_files(evidence),
        "report/report.html": b"<title>Evidence</title>",
        "report/approvals.csv": b"site,person\nnorth,Dr. Weiss\n",
        **{f"studies/{f.study.name}/study.json": canonical(f.study) for f in evidence.studies},
    }


def packed(
    one: Made | None = None,
    *,
    audience: Audience = "regulator",
    content: Mapping[str, bytes] | None = None,
    lines: Lines | None = None,
    shared: Mapping[str, Lines] | None = None,
    withheld: Iterable[int] = (),
    cosigners: Sequence[str] = SITES,
    officer: str = COORDINATOR,
    strangers: Mapping[str, SigningKey] | None = None,
    sealed: bool = True,
) -> dict[str, bytes]:
    """A consortium's bundle as who owns all these keys can make it.

    Args:
        lines: the log before the export's own event.
        shared: what each site signs of its own events.
        officer: whose key signs the manifest.
        strangers: keys in place of the parties' own.
    """
    one = one or made()
    keys = {**one.keys, **(strangers or {})}
    evidence = replace(one.evidence, audience=audience)
    files = dict(one.content if content is None else content)
    manifest = bundle.manifest(evidence, files)
    seal = canonical(esignature(manifest, keys[officer]))
    lines = list(one.lines if lines is None else lines)
    if sealed:
        lines.append(sealing(lines, COORDINATOR, manifest, seal, audience))
    note = signed(one.evidence.origin, lines, keys[COORDINATOR])
    note = note.with_(
        cosign(note.body, names.witness(COORDINATOR, site), keys[site], _seconds())
        for site in cosigners
    )
    files |= bundle.log_files(entries(lines, withheld), note)
    for site, own in (one.shared if shared is None else shared).items():
        origin = names.site_log(COORDINATOR, site)
        files[f"log/sites/{site}.checkpoint"] = signed(origin, own, keys[site]).text.encode()
        files[f"log/sites/{site}.leaves"] = b"".join(map(leaf_hash, own))
    return {**files, "manifest.json": manifest, "log/seal.json": seal}


def packed_site(
    site: str = SITES[0], one: Made | None = None, more: Mapping[str, bytes] | None = None
) -> dict[str, bytes]:
    """A site's bundle, with more files: its own log, anchored in the consortium's."""
    one = one or made()
    origin, key = names.own_log(COORDINATOR, site), one.keys[site]
    evidence = replace(
        one.evidence,
        audience="site",
        role="site",
        node=site,
        origin=origin,
        ledger=tuple(row for row in one.evidence.ledger if row.site == site),
        selftests=tuple(test for test in one.evidence.selftests if test.site == site),
    )
    files = {**content_of(evidence), **(more or {})}
    manifest = bundle.manifest(evidence, files)
    seal = canonical(esignature(manifest, key))
    own = [*one.own[site]]
    own.append(sealing(own, site, manifest, seal, "site"))
    anchor = event_line(
        site,
        len(one.shared[site]),
        "log.checkpoint",
        detail={"size": str(len(own)), "root": merkle.root_of(map(leaf_hash, own)).hex()},
    )
    log = [*one.lines, anchor]
    note = signed(one.evidence.origin, log, one.keys[COORDINATOR])
    note = note.with_(
        cosign(note.body, names.witness(COORDINATOR, s), one.keys[s], _seconds()) for s in SITES
    )
    nodes = merkle.nodes_of([leaf_hash(line) for line in log])
    path = merkle.inclusion(len(log) - 1, len(log), nodes)
    anchored = {
        "line": anchor,
        "place": len(log) - 1,
        "size": len(log),
        "path": [one.hex() for one in path],
    }
    return {
        **files,
        **bundle.log_files(entries(own), signed(origin, own, key)),
        "manifest.json": manifest,
        "log/seal.json": seal,
        "log/anchor.json": as_json(anchored),
        "log/consortium.checkpoint": note.text.encode(),
    }


def entries(lines: Lines, withheld: Iterable[int] = ()) -> list[Entry]:
    hidden = set(withheld)
    return [
        Entry(index, leaf_hash(line), None if index in hidden else line, None)
        for index, line in enumerate(lines)
    ]


def signed(origin: str, lines: Lines, key: SigningKey) -> Note:
    root = merkle.root_of(map(leaf_hash, lines))
    return sign_checkpoint(Checkpoint(origin, len(lines), root), key)


def esignature(manifest: bytes, key: SigningKey, name: str = OFFICER) -> ESignature:
    unsigned = ESignature(
        name=name,
        user="rmeyer",
        auth="os-user",
        role="lead",
        meaning=MEANING,
        at=timestamp(BEGIN + timedelta(hours=1)),
        signed=verify.sha256(manifest),
        key=key.public.text,
        signature="",
    )
    raw = key.sign(b"cohortium-export-v1\n" + canonical(unsigned))
    return unsigned.model_copy(update={"signature": raw.hex()})


def sealing(lines: Lines, node: str, manifest: bytes, seal: bytes, audience: str) -> str:
    """The export's own event, as the node's next."""
    seq = sum(1 for line in lines if f'"node":"{node}"' in line)
    things = [
        {"t": "manifest", "h": f"sha256:{verify.sha256(manifest)}", "bytes": len(manifest)},
        {"t": "esignature", "h": f"sha256:{verify.sha256(seal)}", "bytes": len(seal)},
    ]
    detail = {"audience": audience, "person": OFFICER, "meaning": MEANING}
    return event_line(node, seq, "export.sealed", obj=things, detail=detail)


def event_line(node: str, seq: int, action: str, **values: Any) -> str:
    """An event that never was, in proper form; `ts` an hour after all others."""
    now = BEGIN + timedelta(hours=1, seconds=seq)
    site = node != COORDINATOR
    fresh = {
        "id": uuid7(int(now.timestamp() * 1000), bytes(10)),
        "ts": timestamp(now),
        "src": Source(org=node, node=node, seq=seq),
        "actor": Actor(type="site" if site else "coordinator", id=node, auth="local"),
        "action": action,
        "outcome": "success",
        "salt": f"{seq:032x}",
        **values,
    }
    return parse(fresh, Event, "event").line


def changed(line: str, change: Callable[[dict[str, Any]], object]) -> str:
    """A line with something else in it, in canonical form again."""
    values = json.loads(line)
    change(values)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    read_event(text, "changed")
    return text


def place(lines: Lines, node: str, action: str, which: int = 0) -> int:
    """Where a node's event with an action is in a log; the first, or the `which`-th."""
    events = [json.loads(line) for line in lines]
    found = [
        index
        for index, event in enumerate(events)
        if event["src"]["node"] == node and event["action"] == action
    ]
    return found[which]


def as_json(values: Any) -> bytes:
    """Canonical JSON."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _seconds() -> int:
    return int((BEGIN + timedelta(hours=2)).timestamp())


# ------------------------------------------------------------------ verifying


def verified(
    folder: Path, files: Mapping[str, bytes], *arguments: str, policy: str | None = None
) -> Ran:
    """Pack the files as they are and verify them in this process."""
    bundle.write(folder / BUNDLE, files)
    return verified_file(folder, folder / BUNDLE, *arguments, policy=policy)


def verified_file(folder: Path, path: Path, *arguments: str, policy: str | None = None) -> Ran:
    (folder / POLICY).write_text(made().policy if policy is None else policy)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = verify.main([str(path), "--policy", str(folder / POLICY), *arguments])
    return Ran(code, out.getvalue())


# ------------------------------------------------------------------ a site that lies, with its key


def retold(one: Made, site: str, change: Callable[[list[dict[str, Any]]], object]) -> Made:
    """A site's shared log told in another way from the beginning, and the log with it."""
    events = [json.loads(line) for line in one.shared[site]]
    change(events)
    for seq, event in enumerate(events):
        event["src"]["seq"] = seq
    own = [changed(as_json(event).decode(), lambda _: None) for event in events]
    lines: list[str | None] = list(one.lines)
    places = [i for i, line in enumerate(one.lines) if f'"node":"{site}"' in line]
    told = [*own, *[None] * (len(places) - len(own))]
    for index, line in zip(places, told, strict=False):
        lines[index] = line
    lines += told[len(places) :]
    log = tuple(line for line in lines if line is not None)
    return replace(one, lines=log, shared={**one.shared, site: tuple(own)})


def with_rows(
    one: Made, site: str, change: Callable[[list[dict[str, Any]]], object]
) -> tuple[Made, dict[str, bytes]]:
    """A site that recorded other rows of its ledger, chained and named by its events."""
    rows = [json.loads(canonical(row)) for row in one.evidence.ledger if row.site == site]
    change(rows)
    texts: list[bytes] = []
    for row in rows:
        row["prev"] = verify.sha256(texts[-1]) if texts else ""
        texts.append(as_json(row))

    def name(events: list[dict[str, Any]]) -> None:
        spent = [event for event in events if event["action"] == "privacy.spent"]
        for event, row, text in zip(spent, rows, texts, strict=True):
            event["obj"][0].update(h=f"sha256:{verify.sha256(text)}", bytes=len(text))
            said = {**row, **{key: row["lifetime"][key] for key in ("cap", "delta")}}
            said["epsilon_after"] = row["lifetime"]["after"]
            event["detail"] |= {k: str(said[k]) for k in event["detail"] if k in said}

    ledger = one.content["privacy/ledger.jsonl"].splitlines(keepends=True)
    others = [line for line in ledger if f'"site":"{site}"'.encode() not in line]
    content = b"".join([*others, *(text + b"\n" for text in texts)])
    return retold(one, site, name), {**one.content, "privacy/ledger.jsonl": content}
