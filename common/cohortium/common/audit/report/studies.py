"""What is recorded of studies: their rounds, flags, models, and where each model comes from."""

from collections.abc import Iterator

from cohortium.common.audit.evidence import Evidence, FlagFacts, StudyFacts
from cohortium.common.audit.report.egress import Message
from cohortium.common.audit.report.signatures import Decision
from cohortium.common.audit.report.table import Table
from cohortium.common.audit.report.words import numbers, size


def studies(evidence: Evidence) -> Table:
    return Table(
        name="studies",
        title="Studies",
        header=("study", "state", "purpose", "legal basis", "outcome", "privacy", "sites",
                "submitted", "ended", "sha256 of the study"),
        rows=tuple(
            (
                one.study.name,
                f"{one.state}: {one.cause}" if one.cause else one.state,
                f"{one.study.purpose.text} ({one.study.purpose.duo})",
                one.study.purpose.legal_basis,
                one.study.task.outcome,
                _promise(one),
                ", ".join(one.study.sites.names),
                one.submitted_at,
                one.ended_at,
                one.digest,
            )
            for one in evidence.studies
        ),
        empty="There is no study.",
        note="What was approved is in studies/, byte by byte: its SHA-256 is the study's identity.",
    )  # fmt: skip


def rounds(evidence: Evidence) -> Table:
    """What each round took and gave, by the coordinator's record (at a site, by its own log)."""
    return Table(
        name="rounds",
        file="report/rounds.csv",
        title="Rounds",
        header=("study", "round", "answered", "missing", "refused", "left out", "seconds"),
        rows=tuple(
            (
                one.study.name,
                str(record.round),
                ", ".join(record.replied),
                ", ".join(record.missing),
                "; ".join(f"{site}: {why}" for site, why in sorted(record.refused.items())),
                record.left_out,
                f"{record.seconds:.1f}" if record.seconds else "",
            )
            for one in evidence.studies
            for record in one.rounds
        ),
        empty="No round was run.",
        numeric=frozenset(("round", "seconds")),
    )


def open_flags(evidence: Evidence) -> Table:
    """Findings that nobody has answered for, or whose answer no longer holds; `open-flags.csv`."""
    return _flags(evidence, "open-flags", "Open flags", only_open=True)


def all_flags(evidence: Evidence) -> Table:
    return _flags(evidence, "flags", "Flags, and who answered for them", only_open=False)


def _flags(evidence: Evidence, name: str, title: str, *, only_open: bool) -> Table:
    return Table(
        name=name,
        file=f"report/{name}.csv",
        title=title,
        header=("study", "gate", "flag", "finding", "state", "answered by", "at", "reason"),
        rows=tuple(
            (one.study.name, flag.gate, flag.id, flag.text, *_answer(flag))
            for one in evidence.studies
            for flag in one.flags
            if flag.open or not only_open
        ),
        empty="No flag is open." if only_open else "No flag was raised.",
    )


def _answer(flag: FlagFacts) -> tuple[str, str, str, str]:
    signed = flag.signature
    state = "OPEN" if flag.open else flag.decision
    return (state, signed.name if signed else "", signed.at if signed else "", flag.reason)


def traceability(
    evidence: Evidence, decided: tuple[Decision, ...], left: tuple[Message, ...]
) -> Table:
    """From a model to its rounds, data and approvals, one row a site; `traceability.csv`."""
    return Table(
        name="traceability",
        file="report/traceability.csv",
        title="From a model back to its data and approvals",
        header=("model", "study", "study sha256", "code", "site", "rounds", "updates received",
                "dataset", "dataset version", "approved by", "approved at", "released by",
                "released at"),
        rows=tuple(
            row for one in evidence.studies for row in _traces(one, evidence, decided, left)
        ),
        empty="There is no study to trace.",
        note="Without a finished model the first column is empty; code is that of this export.",
        numeric=frozenset(("updates received",)),
        wide=frozenset(("code", "study sha256")),
    )  # fmt: skip


def _traces(
    one: StudyFacts, evidence: Evidence, decided: tuple[Decision, ...], left: tuple[Message, ...]
) -> Iterator[tuple[str, ...]]:
    released = one.model.release if one.model else None
    own = [message for message in left if message.study == one.digest]
    for site in one.study.sites.names if evidence.role == "coordinator" else (evidence.node,):
        updates = [m for m in own if m.site == site and m.kind == "update"]
        signed = [
            d
            for d in decided
            if (d.study, d.site, d.what) == (one.study.name, site, "study") and d.person
        ]
        yield (
            one.model.sha256 if one.model else "",
            one.study.name,
            one.digest,
            evidence.code,
            site,
            numbers(m.round for m in updates) or "none",
            str(len(updates)),
            one.study.data.dataset,
            _version(evidence, site, one),
            ", ".join(d.person for d in signed) or "nobody",
            ", ".join(dict.fromkeys(d.at for d in signed)),
            released.name if released else "",
            released.at if released else "",
        )


def _version(evidence: Evidence, site: str, one: StudyFacts) -> str:
    """What the site's log last called the version of the dataset, of this study if it says so."""
    found = ""
    for event in evidence.events:
        if (
            event.action in ("dataset.registered", "dataset.snapshot")
            and event.src.node == site
            and event.detail.get("dataset") == one.study.data.dataset
            and event.study in (None, one.digest)
        ):
            found = event.detail.get("version", found)
    return found


def models(evidence: Evidence) -> Table:
    return Table(
        name="models",
        title="Models",
        header=("study", "sha256 of the model", "size", "parameters", "released by", "at",
                "open flags overridden", "reason"),
        rows=tuple(
            (
                one.study.name,
                one.model.sha256,
                size(one.model.bytes),
                f"{one.model.parameters:,}",
                one.model.release.name if one.model.release else "not released",
                one.model.release.at if one.model.release else "",
                str(one.model.overridden),
                one.model.reason,
            )
            for one in evidence.studies
            if one.model is not None
        ),
        empty="There is no finished model.",
        numeric=frozenset(("size", "parameters", "open flags overridden")),
    )  # fmt: skip


def selftests(evidence: Evidence) -> Table:
    return Table(
        name="selftests",
        title="Empirical audits of private training",
        header=("site", "level", "verdict", "what was found", "claimed epsilon", "estimate",
                "control", "device", "at"),
        rows=tuple(
            (t.site, t.level, t.verdict, t.words, t.claim, t.estimate, t.control, t.device, t.at)
            for t in evidence.selftests
        ),
        empty="No empirical audit is recorded.",
        note=(
            "L0: is the mechanism the one that was accounted for; L1: canaries, with a control "
            "that must be caught; L2: one run. An audit finds a lower bound; it proves no privacy."
        ),
        numeric=frozenset(("claimed epsilon", "estimate", "control")),
    )  # fmt: skip


def sites(evidence: Evidence) -> Table:
    return Table(
        name="sites",
        title="Sites",
        header=("site", "patients (band)", "enrolled", "revoked", "signing key"),
        rows=tuple(
            (one.name, one.patients or "not said", one.enrolled_at, one.revoked_at or "",
             one.fingerprint)
            for one in evidence.sites
        ),
        empty="No site is enrolled.",
    )  # fmt: skip


def software(evidence: Evidence) -> Table:
    return Table(
        name="software",
        title="Software of the exporting party",
        header=("package", "version"),
        rows=(*sorted(evidence.software.items()), ("code of this installation", evidence.code)),
        empty="",
    )


def _promise(one: StudyFacts) -> str:
    privacy = one.study.privacy
    if privacy.epsilon is None or privacy.delta is None:
        return "NONE: updates may reveal single patients"
    return f"epsilon {privacy.epsilon:g}, delta {privacy.delta:g} per patient, all rounds"
