"""What the log says by itself: refusals, reviews, alarms, exports, witnesses."""

from collections.abc import Mapping

from cohortium.common.audit.evidence import Evidence, once
from cohortium.common.audit.recorded import AnyEvent
from cohortium.common.audit.report.egress import study_names
from cohortium.common.audit.report.table import Table

REFUSED = (
    "round.refused",
    "study.rejected",
    "privacy.cap.hit",
    "node.dropped",
    "auth.fail",
    "run.failed",
)
ALARMS = {
    "log.equivocation": "a site was shown two different logs and keeps both as proof",
    "log.behind": "the log was behind what a witness has seen: an older copy was in use",
    "log.recovered": "the log was begun anew",
    "clock.skew": "a clock was off",
    "incident.declared": "an incident was declared",
    "retention.redacted": "texts of events were erased; their hashes stay",
    "approval.withdrawn": "an approval was withdrawn",
    "dataset.retired": "a dataset was withdrawn",
    "model.withdrawn": "a model was withdrawn",
}


@once
def refusals(evidence: Evidence) -> Table:
    """Every no: by a site's rules, by a person, by the coordinator; for `refusals.csv`."""
    names = study_names(evidence)
    rows = tuple(
        (
            event.ts,
            event.detail.get("site", event.src.node),
            _study(event, names),
            "" if event.round is None else str(event.round),
            event.action,
            event.reason or "",
            event.detail.get("kind", ""),
            event.src.node,
            event.id,
        )
        for event in evidence.events
        if event.action in REFUSED
    )
    return Table(
        name="refusals",
        file="report/refusals.csv",
        title="Refusals and failures",
        header=("at", "site", "study", "round", "event", "rule or reason", "message",
                "recorded by", "id"),
        rows=rows,
        empty="Nothing was refused, and nothing failed.",
        note="A refusal is a rule that worked: a site's policy, its budget, a person who said no.",
        numeric=frozenset(("round",)),
        wide=frozenset(("message", "id")),
    )  # fmt: skip


@once
def reviews(evidence: Evidence) -> Table:
    """Who looked at the log, which part of it and what they found; for `log-review.csv`."""
    rows = tuple(
        (
            event.ts,
            event.detail.get("reviewer", event.detail.get("person", event.actor.id)),
            _range(event),
            event.detail.get("findings", event.reason or ""),
            event.detail.get("meaning", ""),
            event.src.node,
            event.id,
        )
        for event in evidence.events
        if event.action == "log.review"
    )
    return Table(
        name="log-review",
        file="report/log-review.csv",
        title="Proof of review",
        header=("at", "reviewed by", "events", "findings", "meaning", "recorded by", "id"),
        rows=rows,
        empty=NO_REVIEW[evidence.audience],
        wide=frozenset(("id",)),
    )


NO_REVIEW = {
    "site": "No review of this log is recorded.",
    "consortium": "No signed review of this log is recorded, or none that this audience may see.",
    "regulator": "No review of this log is recorded.",
}


@once
def alarms(evidence: Evidence) -> Table:
    """What a person should know of even where everything else is well."""
    names = study_names(evidence)
    return Table(
        name="alarms",
        title="Alarms and withdrawals",
        header=("at", "recorded by", "what", "study", "event", "id"),
        rows=tuple(
            (event.ts, event.src.node, ALARMS[event.action], _study(event, names), event.action,
             event.id)
            for event in evidence.events
            if event.action in ALARMS
        ),
        empty="None is recorded.",
        wide=frozenset(("id",)),
    )  # fmt: skip


def exports(evidence: Evidence) -> Table:
    """Earlier exports of this log: who took evidence out, for whom."""
    return Table(
        name="exports",
        title="Earlier exports",
        header=("at", "by", "audience", "recorded by", "sha256 of the manifest"),
        rows=tuple(
            (event.ts, event.detail.get("person", ""), event.detail.get("audience", ""),
             event.src.node, _thing(event, "manifest"))
            for event in evidence.events
            if event.action == "export.sealed"
        ),
        empty="There was none before this one.",
    )  # fmt: skip


def actions(evidence: Evidence) -> Table:
    """How many events of each kind are shown, by whose log they are in."""
    counts = dict[tuple[str, str], int]()
    for event in evidence.events:
        key = (event.action, event.src.node)
        counts[key] = counts.get(key, 0) + 1
    return Table(
        name="events",
        title="What the log holds",
        header=("event", "recorded by", "shown"),
        rows=tuple((*key, str(counts[key])) for key in sorted(counts)),
        empty="No event is shown.",
        numeric=frozenset(("shown",)),
    )


def witnesses(evidence: Evidence) -> Table:
    """Up to where each witness has confirmed, before this export, that the log only grew."""
    seen = {one.site: one for one in evidence.witnessed}
    times = {entry.index: entry.event.ts for entry in evidence.entries if entry.event is not None}

    def row(site: str) -> tuple[str, ...]:
        one = seen.get(site)
        if one is None:
            return (site, "nothing yet", "", "")
        return (site, f"the first {one.size:,} events", times.get(one.size - 1, ""), one.at)

    return Table(
        name="witnesses",
        title="Witnessed by whom, and until when",
        header=("witness", "has confirmed", "last of these happened", "confirmed at"),
        rows=tuple(row(site) for site in sorted(evidence.witnesses)),
        empty="Nobody: no site is enrolled that could be a witness.",
    )


def _thing(event: AnyEvent, kind: str) -> str:
    return next((thing.h for thing in event.obj if thing.t == kind), "")


def _range(event: AnyEvent) -> str:
    first, last = event.detail.get("first", ""), event.detail.get("last", "")
    return f"{first} to {last}" if first or last else ""


def _study(event: AnyEvent, names: Mapping[str, str]) -> str:
    return names.get(event.study, event.study[:12]) if event.study else ""
