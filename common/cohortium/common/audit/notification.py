"""The draft of a breach's notification, filled with what the record knows; a person completes it.

Headings are those of Regulation (EU) 2016/679 (GDPR), Article 33(3)(a) to (d), and of 45 CFR
164.404 and 164.410. Whether there was a breach, and whom to tell, is not for a program to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

GDPR_HOURS, HIPAA_DAYS = 72, 60
OPEN = "CONTROLLER TO COMPLETE"


@dataclass(frozen=True)
class StudyTouched:
    """A study here, how it stands, and the dataset that it uses."""

    name: str
    digest: str
    state: str
    dataset: str


@dataclass(frozen=True)
class Holding:
    """Patients' data in question: which dataset, of how many patients (a band), its privacy."""

    site: str
    dataset: str
    patients: str
    privacy: str = ""


@dataclass(frozen=True)
class Left:
    """Messages of one kind that left in a study; times RFC 3339 in UTC."""

    study: str
    site: str
    what: str
    messages: int
    first: str
    last: str
    bytes: int | None = None


@dataclass(frozen=True)
class Facts:
    """Everything that a draft is made of. role: whose record it is, such as `site northgate`."""

    role: str
    consortium: str
    person: str
    reason: str
    noticed: datetime
    event: str
    studies: Sequence[StudyTouched]
    holdings: Sequence[Holding]
    sites: Sequence[str]
    left: Sequence[Left]
    measures: Sequence[str]
    unknown: Sequence[str] = ()


DRAFT = """\
# Notification of a personal data breach: DRAFT

Made from the record of {role} ({consortium}) when the incident was declared. Everything marked
**{open}** is for a person. Nothing here says that a breach occurred, or that it must be notified.

## The clock

{clock}

## GDPR Article 33(3)(a): nature of the breach

Said at the declaration: {reason}

Nature, and categories of data subjects and of records: **{open}**

Data subjects, approximately (patients by dataset, as the bands that are public):

{holdings}

Studies:

{studies}

Sites: {sites}

What left, and when, by this record (updates and counts, never a patient's row, as far as the
software was not changed):

{left}

## GDPR Article 33(3)(b): contact

Name and contact details of the data protection officer: **{open}**

## GDPR Article 33(3)(c): likely consequences

**{open}** (what the privacy ledger bounds is above; it bounds nothing for somebody who reached a
table itself)

## GDPR Article 33(3)(d): measures taken or proposed

Taken by the software:

{measures}

Not possible for the software:

{unknown}

Further measures: **{open}**

## GDPR Article 33(4) and (5)

What is not known yet, and when it will be told: **{open}**. This file, the incident's folder and
the event log document the breach.

## 45 CFR 164.404(c)(1): content for individuals

(A) What happened; date of the breach: **{open}**; date of its discovery: {noticed}, at the latest

(B) Types of unsecured protected health information: **{open}**; the columns that studies read stand
in the approvals

(C) What individuals should do to protect themselves: **{open}**

(D) What is done to investigate, mitigate and protect: as under Article 33(3)(d), and **{open}**

(E) How to ask: a toll-free number, an e-mail address, web site or postal address: **{open}**

## 45 CFR 164.410: from a business associate to the covered entity

Each individual whose information was, or is believed to have been, reached: **{open}** (this record
names no patient)

Who is covered entity and who business associate here: **{open}**

Event of the declaration in the log: `{event}`
"""


def draft(facts: Facts) -> str:
    """The draft as Markdown."""
    return DRAFT.format(
        open=OPEN,
        role=_text(facts.role),
        consortium=_text(facts.consortium),
        reason=_text(facts.reason),
        event=facts.event,
        noticed=_time(facts.noticed),
        clock=_table(("what", "when", ""), _clock(facts)),
        holdings=_table(
            ("site", "dataset", "patients", "privacy spent"),
            [(h.site, h.dataset, h.patients or OPEN, h.privacy) for h in facts.holdings],
        ),
        studies=_table(
            ("study", "digest", "state", "dataset"),
            [(s.name, s.digest[:16], s.state, s.dataset) for s in facts.studies],
        ),
        sites=", ".join(map(_text, facts.sites)) or "none",
        left=_table(
            ("study", "site", "what", "messages", "first", "last", "bytes"),
            [
                (o.study, o.site, o.what, str(o.messages), o.first, o.last, _number(o.bytes))
                for o in facts.left
            ],
        ),
        measures=_list(facts.measures),
        unknown=_list(facts.unknown),
    )


def _clock(facts: Facts) -> list[tuple[str, str, str]]:
    gdpr = facts.noticed + timedelta(hours=GDPR_HOURS)
    hipaa = facts.noticed + timedelta(days=HIPAA_DAYS)
    return [
        ("noticed, at the latest", _time(facts.noticed), f"declared by {facts.person}"),
        ("GDPR Article 33(1)", _time(gdpr), f"{GDPR_HOURS} hours after becoming aware"),
        ("GDPR Article 33(2)", "without undue delay", "a processor tells the controller"),
        ("45 CFR 164.404(b), 164.410(b)", _time(hipaa), f"no later than {HIPAA_DAYS} days"),
        ("when it was really noticed first", OPEN, "the clocks begin then"),
    ]


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return "none is recorded"
    lines = [header, tuple("---" for _ in header), *(tuple(map(_text, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {_text(item)}" for item in items) or "- none"


def _text(text: str) -> str:
    """Text of a person's as text of a cell: no markup, no further column."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in text)


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
