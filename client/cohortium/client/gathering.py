"""A site's evidence, for the site: its own log, its ledger, what it approved and what left it.

Nothing of a patient is in it: of results by group only what left after disclosure control, of those
that stay here only the measures over all of the site's held-out patients.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cohortium.client.anchors import newest
from cohortium.client.approvals import CONTEXT as APPROVAL
from cohortium.client.approvals import Approval
from cohortium.client.config import SiteConfig
from cohortium.client.replies import Replies
from cohortium.client.results import KeptResults
from cohortium.client.studies import KnownStudy, Studies
from cohortium.common.audit import names
from cohortium.common.audit.audience import View
from cohortium.common.audit.documents import Documents
from cohortium.common.audit.events import read_event, timestamp
from cohortium.common.audit.evidence import (
    Cosigned,
    Entry,
    ESignature,
    Evidence,
    RoundFacts,
    SiteFacts,
    StudyFacts,
)
from cohortium.common.audit.notes import log_key, witness_key
from cohortium.common.audit.pointed import ledger_rows, selftests
from cohortium.common.audit.recorded import AnyEvent
from cohortium.common.audit.software import installed, licences
from cohortium.common.code import code_digest, code_version
from cohortium.common.database import Database
from cohortium.common.document import parse_json
from cohortium.common.errors import SignatureError
from cohortium.common.identity import VerifyKey
from cohortium.common.messages import Consent, Evaluated, unpack
from cohortium.common.metrics.performance import Performance, of_study
from cohortium.common.metrics.tallies import SiteEvaluation

_ROWS = 500
LEFT = (
    "round.update.sent",
    "evaluation.completed",
    "evaluation.calibrated",
    "evaluation.validated",
)


@dataclass(frozen=True)
class Gathering:
    """Reads one site's directory."""

    config: SiteConfig
    database: Database
    key: VerifyKey

    @property
    def origin(self) -> str:
        return names.own_log(self.config.coordinator.name, self.config.name)

    def evidence(self, study: str | None, since: str, until: str, officer: str) -> Evidence:
        """Everything, with no export of ours at the end of the log."""
        with self.database.transaction():
            size = self._state_size()
            known = Studies(self.database)
            chosen = known.by_name(study).digest if study else ""
            found = [one for one in reversed(known.all()) if chosen in ("", one.digest)]
            witnessed = self._witnessed(size)
        entries = tuple(self.entries(View("site", chosen, since, until), size))
        events = [entry.event for entry in entries if entry.event is not None]
        studies = tuple(self._study(one, events) for one in found)
        documents, site, peer = Documents(self.database), self.config.name, self.config.coordinator
        packages = installed()
        return Evidence(
            audience="site",
            role="site",
            node=site,
            consortium=peer.name,
            origin=self.origin,
            at=self._at(size),
            since=since,
            until=until,
            officer=officer,
            log_key=log_key(self.origin, self.key).text,
            witnesses={site: witness_key(names.witness(peer.name, site), self.key).text},
            entries=entries,
            sites=(self._itself(events),),
            studies=studies,
            ledger=ledger_rows(events, documents),
            selftests=selftests(events, documents),
            software=packages,
            licences=licences(packages),
            code=code_digest(),
            version=code_version(),
            study=chosen,
            witnessed=witnessed,
        )

    def entries(self, view: View, size: int, since: int = 0) -> Iterator[Entry]:
        """The places of the site's own log from `since` on, up to `size`."""
        return view.entries(self._rows(size, since), str(self.database.path))

    def _rows(self, size: int, since: int) -> Iterator[tuple[int, str, bytes]]:
        for start in range(since, size, _ROWS):
            for row in self.database.execute(
                "SELECT seq, line, leaf FROM events WHERE seq >= ? AND seq < ? ORDER BY seq",
                (start, min(start + _ROWS, size)),
            ):
                yield row["seq"], row["line"], row["leaf"]

    def _state_size(self) -> int:
        """How long the log is without exports at its end: they change nothing else."""
        rows = self.database.execute(
            "SELECT seq + 1 AS size FROM events "
            'WHERE instr(line, \'"action":"export.sealed"\') = 0 ORDER BY seq DESC LIMIT 1'
        )
        return int(rows[0]["size"]) if rows else 0

    def _at(self, size: int) -> str:
        rows = self.database.execute(
            "SELECT seq, line FROM events WHERE seq < ? AND line <> '' ORDER BY seq DESC LIMIT 1",
            (size,),
        )
        return read_event(rows[0]["line"], f"{self.database.path}: last event").ts if rows else ""

    def _itself(self, events: Iterable[AnyEvent]) -> SiteFacts:
        enrolled = next((event.ts for event in events if event.action == "node.enrolled"), "")
        return SiteFacts(self.config.name, self.key.text, self.key.fingerprint, enrolled)

    def _witnessed(self, size: int) -> tuple[Cosigned, ...]:
        """Up to where the consortium's log names our own log's head, by what we have cosigned."""
        anchor = newest(self.database, size)
        if anchor is None:
            return ()
        return (Cosigned(self.config.name, anchor.own_size, _time(anchor.cosigned_ms)),)

    def _study(self, known: KnownStudy, events: Iterable[AnyEvent]) -> StudyFacts:
        own = [event for event in events if event.study == known.digest]
        approvals = self._approvals(known.digest)
        left, kept = self._left(known), self._kept(known)
        ends = [e.ts for e in own if e.action in ("run.completed", "run.stopped")]
        return StudyFacts(
            study=known.study,
            digest=known.digest,
            state=known.state,
            cause=known.note,
            submitted_at=_time(known.received_ms),
            ended_at=ends[-1] if known.state in ("ended", "stopped") and ends else "",
            consents={self.config.name: _consent(known, approvals)},
            rounds=tuple(_rounds(own, self.config.name)),
            evaluations={self.config.name: left} if left else {},
            performance=kept,
            approvals=approvals,
            secure_aggregation=False,  # this version has none
        )

    def _approvals(self, digest: str) -> tuple[ESignature, ...]:
        """What persons signed here for a study, as far as it is as it was signed."""
        rows = self.database.execute(
            "SELECT document, signature FROM approvals WHERE digest = ? ORDER BY person", (digest,)
        )
        return tuple(
            found
            for row in rows
            if (found := self._approval(bytes(row["document"]), bytes(row["signature"])))
        )

    def _approval(self, document: bytes, signature: bytes) -> ESignature | None:
        try:
            self.key.verify(signature, APPROVAL + document)
        except SignatureError:
            return None
        said = parse_json(document, Approval, "stored approval")
        return ESignature(
            name=said.person,
            user="",
            auth="os-user",
            role=self.config.people.get(said.person, ""),
            meaning=said.meaning,
            at=said.at,
            signed=hashlib.sha256(document).hexdigest(),
            key=self.key.text,
            signature=signature.hex(),
        )

    def _left(self, known: KnownStudy) -> SiteEvaluation | None:
        """What left of the final model's evaluation, after disclosure control."""
        last = Replies(self.database).of(known.digest, "evaluate", known.study.training.rounds)
        if last is None or last[1].kind != Evaluated.kind:
            return None
        return unpack(last[1].body, Evaluated)[0].evaluation

    def _kept(self, known: KnownStudy) -> tuple[Performance, ...]:
        """Over all held-out patients of this site, nothing hidden and nothing by group."""
        results = KeptResults(self.database).of(known.digest)
        if results is None or "federated" not in results.models:
            return ()
        return of_study({self.config.name: results.models["federated"]}, known.study)


def _consent(known: KnownStudy, approvals: tuple[ESignature, ...]) -> Consent:
    if not approvals:
        refused = known.state in ("rejected", "stopped")
        return Consent(
            decision="refused" if refused else "waiting",
            rule=f"study.{known.state}" if refused else "",
            explanation=known.note if refused else "",
        )
    return Consent(
        decision="approved",
        approvers=tuple(one.name for one in approvals),
        approved_at=approvals[0].at,
    )


def _rounds(events: Iterable[AnyEvent], site: str) -> Iterator[RoundFacts]:
    """What this site answered and refused, by round."""
    sent, refused = dict[int, dict[str, int]](), dict[int, str]()
    for event in events:
        if event.round is None:
            continue
        for thing in event.obj if event.action in LEFT else ():
            kinds = sent.setdefault(event.round, {})
            kinds[thing.t] = kinds.get(thing.t, 0) + (thing.bytes or 0)
        if event.action in ("round.refused", "privacy.cap.hit"):
            refused[event.round] = event.reason or ""
    for number in sorted({*sent, *refused}):
        yield RoundFacts(
            round=number,
            seconds=0.0,
            replied=(site,) if number in sent else (),
            missing=(),
            refused={site: refused[number]} if number in refused else {},
            received={site: sent[number]} if number in sent else {},
            spent={},
        )


def _time(ms: int) -> str:
    return timestamp(datetime.fromtimestamp(ms / 1000, UTC))
