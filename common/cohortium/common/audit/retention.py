"""How long what of the record is kept, and what may never be taken out of it.

Three classes: `log`, what happened; `evidence`, who decided and on what; `ledger`, what a dataset
was used for, which is kept as long as the dataset lives and its years after that, because budgets
and the list of models that a withdrawal touches rest on it.

Six years are what 45 CFR 164.316(b)(2)(i) asks of required documentation, ten what Article 18 of
Regulation (EU) 2024/1689 asks of a provider; below six months nobody may go (its Articles 19 and
26(6)).
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from cohortium.common.audit.events import Event
from cohortium.common.document import Document, parse, read_toml
from cohortium.common.people import RECORDS

Class = Literal["log", "ledger", "evidence"]

LEAST_YEARS = 0.5
YEAR = timedelta(days=365.25)

_LEDGER = ("privacy.", "dataset.", "cohort.", "round.task.", "round.update.", "evaluation.")
_EVIDENCE = (
    *("study.", "protocol.", "approval.", "flag.", "fairness.", "model.", "pccp."),
    *("export.", "log.review", "incident.", "retention."),
)
# Never withheld, by whoever asks: something rests on them, and they name no patient.
KEPT: Mapping[str, str] = {
    "key.rotated": "old signatures are verified by it",
    "log.checkpoint": "the consortium's log is anchored by it",
    "log.equivocation": "it is proof",
    "log.recovered": "it says where the log was begun anew",
    "model.withdrawn": "it keeps a release gate open",
    "retention.redacted": "it says what was withheld and why",
}
STUDYS_OWN: Mapping[str, str] = {"auth.fail": "it keeps a release gate open"}  # of a study's


def _long_enough(years: float) -> float:
    if not LEAST_YEARS <= years <= 100:
        raise ValueError("at least 0.5 years, which is what the law asks (AI Act, Article 19)")
    return years


Years = Annotated[float, AfterValidator(_long_enough)]


class Retention(Document):
    """`[retention]` in site.toml or coordinator.toml: years; ledger counts from a withdrawal on."""

    log: Years = 6.0
    ledger: Years = 6.0
    evidence: Years = 6.0

    def years(self, kind: Class) -> float:
        return {"log": self.log, "ledger": self.ledger, "evidence": self.evidence}[kind]

    def until(self, kind: Class, since: datetime) -> datetime:
        """Until when something is kept; of the ledger's class, since its dataset's withdrawal."""
        return since + self.years(kind) * YEAR


def retention_of(root: Path) -> Retention:
    """What a party's directory says."""
    for file in RECORDS:
        if (root / file).exists():
            section = read_toml(root / file).get("retention", {})
            values = section if isinstance(section, dict) else {"retention": section}
            return parse(values, Retention, f"{root / file}: retention")
    return Retention()


def class_of(action: str) -> Class:
    """The class of events with an action."""
    if action.startswith(_LEDGER):
        return "ledger"
    return "evidence" if action.startswith(_EVIDENCE) else "log"


def kept_because(event: Event) -> str | None:
    """Why an event is never withheld, if so."""
    own = STUDYS_OWN.get(event.action) if event.study is not None else None
    return KEPT.get(event.action) or own


class Lives:
    """Since when datasets are withdrawn, and which dataset an event is about.

    Args:
        events: of all nodes, in order.
        studies: the dataset of each study, by digest.
    """

    def __init__(self, events: Iterable[Event], studies: Mapping[str, str]) -> None:
        self._studies = studies
        self._ended: dict[tuple[str, str], datetime] = {}
        for event in events:
            key = (event.src.node, event.detail.get("dataset", ""))
            if event.action == "dataset.retired":
                self._ended[key] = at(event)
            elif event.action == "dataset.registered":
                self._ended.pop(key, None)

    def ended(self, event: Event) -> datetime | None:
        """Since when the dataset that an event is about is withdrawn; None while it lives."""
        name = event.detail.get("dataset") or self._studies.get(event.study or "", "")
        return self._ended.get((event.src.node, name))


def due(event: Event, retention: Retention, lives: Lives) -> datetime | None:
    """From when on an event's text may be withheld; None for not in sight."""
    if kept_because(event) is not None:
        return None
    kind = class_of(event.action)
    since = lives.ended(event) if kind == "ledger" else at(event)
    return retention.until(kind, since) if since is not None else None


def at(event: Event) -> datetime:
    return datetime.fromisoformat(event.ts).astimezone(UTC)
