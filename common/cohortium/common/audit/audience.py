"""Who may see which events: a consortium no person but those who signed, a regulator everything.

An event that may not be shown is withheld: its leaf stays, so that the log's root can be computed.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cohortium.common.audit.events import Event, leaf_hash
from cohortium.common.audit.evidence import Audience, Entry
from cohortium.common.audit.recorded import AnyEvent, Recorded, recorded
from cohortium.common.document import parse_json
from cohortium.common.errors import CohortiumError

# Events that are, or record, somebody's signature in their name: it is there to be shown.
SIGNED = frozenset(("study.approved", "flag.dispositioned", "model.released", "export.sealed"))
PERSONS = frozenset(("person", "by", "user", "reviewer", "recipient"))  # details that name one
FLAGS = frozenset(("flag.raised", "flag.dispositioned"))
OURS = frozenset(("flag.raised", "auth.fail"))  # their reasons are texts of our own, of no person
RULE = re.compile(r"[a-z][a-z0-9_.]{0,99}")


@dataclass(frozen=True)
class View:
    """What an export shows of a log.

    study: a digest, to show that study and what is of none, or "". since, until: RFC 3339, both
    included, or "". blinded: digests of studies that hide whose a result is; flags may name a site.
    """

    audience: Audience
    study: str = ""
    since: str = ""
    until: str = ""
    blinded: frozenset[str] = field(default_factory=frozenset)

    def entries(self, rows: Iterable[tuple[int, str, bytes]], source: str) -> Iterator[Entry]:
        """Places of the log (index, line or "", leaf) as this audience sees them.

        Raises:
            CohortiumError: starts with `source`; a line is not what was logged.
        """
        for index, line, leaf in rows:
            event = _logged(line, leaf, f"{source}: event {index}") if line else None
            shown = event is not None and self.shows(event)
            yield Entry(index, leaf, line if shown else None, event if shown else None)

    def shows(self, event: AnyEvent) -> bool:
        """Whether the event's text may be in the export."""
        return self._asked_for(event) and (self.audience != "consortium" or self._shared(event))

    def said(self, reason: str) -> str:
        """A reason, `rule: explanation`: for a consortium the rule alone, if it begins with one."""
        if self.audience != "consortium":
            return reason
        rule = reason.split(":")[0]
        return rule if RULE.fullmatch(rule) else ""

    def _asked_for(self, event: AnyEvent) -> bool:
        if event.action == "export.sealed":
            return True  # the export's own among them
        return (
            (not self.study or event.study in (None, self.study))
            and self.since <= event.ts
            and (not self.until or event.ts <= self.until)
        )

    def _shared(self, event: AnyEvent) -> bool:
        if event.action in FLAGS and event.study in self.blinded:
            return False
        if event.action in SIGNED or "signature" in event.detail:
            return True
        return (
            event.actor.type != "person"
            and not PERSONS & event.detail.keys()
            and (event.reason is None or event.action in OURS or _is_rule(event.reason))
        )


def _is_rule(reason: str) -> bool:
    """A rule's name and nothing else: free text may say who it was."""
    return RULE.fullmatch(reason) is not None


def _logged(line: str, leaf: bytes, where: str) -> Recorded:
    """An event of the log; its hash says that it is the one that was checked when it was logged."""
    if leaf_hash(line) != leaf:
        raise CohortiumError(f"{where} does not match its hash; the log was changed")
    return recorded(parse_json(line.encode(), Event, where), leaf)
