"""The coordinator's evidence: what it holds of its consortium, as far as an audience may see it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cohortium.common.audit import names
from cohortium.common.audit.audience import View
from cohortium.common.audit.documents import Documents
from cohortium.common.audit.events import read_event
from cohortium.common.audit.evidence import Audience, Cosigned, Entry, Evidence, SiteFacts
from cohortium.common.audit.notes import witness_key
from cohortium.common.audit.pointed import ledger_rows, selftests
from cohortium.common.audit.software import installed, licences
from cohortium.common.code import code_digest, code_version
from cohortium.common.errors import SignatureError
from cohortium.common.identity import VerifyKey
from cohortium.server.consortium import Consortium
from cohortium.server.opened import Opened
from cohortium.server.store import StudyRow
from cohortium.server.study_facts import moment, raise_all_flags, study_facts


@dataclass(frozen=True)
class Gathering:
    """Reads one coordinator's directory.

    keys: of the sites that are enrolled, by name: those who witness.
    """

    opened: Opened
    consortium: Consortium
    keys: Mapping[str, VerifyKey]

    def evidence(
        self, audience: Audience, study: str | None, since: str, until: str, officer: str
    ) -> Evidence:
        """Everything that an audience may see, with no export of ours at its end."""
        raise_all_flags(self.opened)
        with self.opened.database.transaction():
            size = self._state_size()
            rows = self.opened.store.studies()
            chosen = self.opened.store.study(study).digest if study else ""
            view = self.view(audience, chosen, since, until)
            shown = [row for row in rows if _asked_for(row, view)]
            studies = tuple(study_facts(row, self.opened, view) for row in shown)
            sites, witnessed = self._sites(rows), self._witnessed(size)
        entries = tuple(self.entries(view, size))
        events = [entry.event for entry in entries if entry.event is not None]
        documents = Documents(self.opened.database)
        name, packages = self.opened.config.name, installed()
        return Evidence(
            audience=audience,
            role="coordinator",
            node=name,
            consortium=name,
            origin=self.consortium.origin,
            at=self._at(size),
            since=since,
            until=until,
            officer=officer,
            log_key=self.consortium.log_key.text,
            witnesses={
                site: witness_key(names.witness(name, site), key).text
                for site, key in sorted(self.keys.items())
            },
            entries=entries,
            sites=sites,
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

    def view(self, audience: Audience, study: str, since: str, until: str) -> View:
        """What an audience sees of the log; a consortium nothing that undoes a study's blinding."""
        rows = self.opened.store.studies() if audience == "consortium" else []
        blinded = frozenset(row.digest for row in rows if row.study.evaluation.blinded)
        return View(audience, study, since, until, blinded)

    def entries(self, view: View, size: int, since: int = 0) -> Iterator[Entry]:
        """The places of the consortium's log from `since` on, up to `size`."""
        return view.entries(self._rows(size, since), str(self.opened.database.path))

    def _rows(self, size: int, since: int) -> Iterator[tuple[int, str, bytes]]:
        for one in self.consortium.logged(since):
            if one.place >= size:
                return
            yield one.place, one.line, one.leaf

    def _state_size(self) -> int:
        """How long the log is without exports of our own at its end: they change nothing else.

        So the same state gives the same evidence, however often it was exported.
        """
        size = self.consortium.size()
        while size:
            last = next(self.consortium.logged(size - 1))
            own = last.node == self.opened.config.name
            if not own or '"action":"export.sealed"' not in last.line:
                break
            size -= 1
        return size

    def _at(self, size: int) -> str:
        """When the last event of so many happened that still has its text."""
        for place in range(size - 1, -1, -1):
            line = next(self.consortium.logged(place)).line
            if line:
                return read_event(line, f"{self.opened.database.path}: event {place}").ts
        return moment(0)

    def _sites(self, rows: list[StudyRow]) -> tuple[SiteFacts, ...]:
        """Everybody ever enrolled, by name, with the last public band of their patients."""
        bands = dict[str, str]()
        for row in rows:
            for site, consent in self.opened.store.consents(row.digest).items():
                bands[site] = consent.patients or bands.get(site, "")
        return tuple(
            SiteFacts(
                name=row["name"],
                signing_key=row["signing_key"],
                fingerprint=VerifyKey.from_text(row["signing_key"]).fingerprint,
                enrolled_at=moment(row["enrolled_ms"]),
                revoked_at=moment(row["revoked_ms"]) or None,
                patients=bands.get(row["name"], ""),
            )
            for row in self.opened.database.execute("SELECT * FROM sites ORDER BY name")
        )

    def _witnessed(self, size: int) -> tuple[Cosigned, ...]:
        """What each site cosigned last of the first `size` places, if it verifies."""
        found = dict[str, Cosigned]()
        for checkpoint in self.consortium.sizes():
            note = self.consortium.note(checkpoint) if checkpoint <= size else None
            if note is None:
                continue
            for site in self.keys.keys() - found.keys():
                name = names.witness(self.opened.config.name, site)
                try:
                    at = note.cosigned_at(witness_key(name, self.keys[site]))
                except SignatureError:
                    continue
                if at is not None:
                    found[site] = Cosigned(site, checkpoint, moment(1000 * at))
            if len(found) == len(self.keys):
                break
        return tuple(found[site] for site in sorted(found))


def _asked_for(row: StudyRow, view: View) -> bool:
    """Of the study that was asked for, or of those that went on in the time that was asked for."""
    submitted, ended = moment(row.submitted_ms), moment(row.ended_ms)
    return (
        (not view.study or row.digest == view.study)
        and (not view.until or submitted <= view.until)
        and (not ended or view.since <= ended)
    )
