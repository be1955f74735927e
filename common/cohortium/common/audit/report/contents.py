"""What the report holds after its first page: sections of tables, the same on page and paper."""

from dataclasses import dataclass

from cohortium.common.audit.evidence import Evidence
from cohortium.common.audit.report import budget, egress, fairness, record, signatures, studies
from cohortium.common.audit.report.table import Table
from cohortium.common.audit.report.words import count, day

AUDIENCES = {
    "site": "for the site itself: its own whole log, which never leaves it but by this file",
    "consortium": "for members of the consortium: no person is named but those who signed",
    "regulator": "for a regulator: the whole log of the consortium, nothing withheld",
}
LAW = Table(
    name="law",
    title="When duties begin, and how long records are kept",
    header=("rule", "when"),
    rows=(
        ("EU AI Act, high-risk systems of Annex III", "from 2 December 2027"),
        ("EU AI Act, products of Annex I such as medical devices", "from 2 August 2028"),
        ("EU AI Act, Article 19: logs kept", "6 months at least"),
        ("HIPAA, 45 CFR 164.316(b)(2)(i): documentation kept", "6 years"),
    ),
    empty="",
    note="An engineer's reading, no legal advice.",
)
OUTSIDE = (
    "Research before a product is placed on the market is outside the AI Act (Article 2(6) and "
    "(8)); who places it on the market later needs these records. Nothing here says that a duty is "
    "met: that is for the provider, the hospital and their counsel to judge."
)
VERIFY = (
    "To verify: get the verifier and the consortium's policy file from a place that you trust, "
    "never from the bundle itself, and follow README.txt. A page alone proves nothing: what was "
    "signed is the manifest, which holds its hash."
)


@dataclass(frozen=True)
class Section:
    """anchor: what links lead to. words: paragraphs below the tables."""

    anchor: str
    title: str
    tables: tuple[Table, ...]
    words: tuple[str, ...] = ()


def scope(evidence: Evidence) -> str:
    """Of what, from when until when, by whom, and how much of the log is shown."""
    shown = sum(entry.line is not None for entry in evidence.entries)
    hidden = len(evidence.entries) - shown
    since = f"From {day(evidence.since)}" if evidence.since else "From the beginning"
    until = day(evidence.until or evidence.at)
    names = egress.study_names(evidence)
    study = names.get(evidence.study, evidence.study[:12])
    about = f", of study {study} and what concerns all" if evidence.study else ""
    withheld = f", {hidden:,} withheld: of those only the hashes are here" if hidden else ""
    return (
        f"{since} until {until}{about}. Exported by {evidence.officer}. "
        f"{count(shown, 'event')} of {len(evidence.entries):,} in the log "
        f"{'is' if shown == 1 else 'are'} shown{withheld}."
    )


def sections(evidence: Evidence) -> tuple[Section, ...]:
    """Everything, in the order in which it is asked for."""
    decided, left = signatures.decisions(evidence), egress.messages(evidence)
    return (
        Section(
            "approvals",
            "Approvals and signatures",
            (signatures.approvals(decided), signatures.signatures(decided)),
        ),
        Section(
            "egress",
            "What left the building",
            (egress.summary(evidence, left), egress.register(evidence, left)),
        ),
        Section(
            "privacy",
            "Privacy",
            (
                budget.budget(budget.accounts(evidence)),
                budget.by_study(evidence),
                studies.selftests(evidence),
            ),
        ),
        Section(
            "flags",
            "Flags, alarms and refusals",
            (studies.all_flags(evidence), record.alarms(evidence), record.refusals(evidence)),
        ),
        Section(
            "review",
            "Review, witnesses and earlier exports",
            (record.reviews(evidence), record.witnesses(evidence), record.exports(evidence)),
        ),
        Section(
            "studies", "Studies and rounds", (studies.studies(evidence), studies.rounds(evidence))
        ),
        Section(
            "traceability",
            "From a model back to its data",
            (studies.models(evidence), studies.traceability(evidence, decided, left)),
        ),
        Section(
            "fairness",
            "Groups of patients",
            (fairness.summary(evidence), fairness.gaps(evidence), fairness.invisible(evidence)),
        ),
        Section(
            "parties",
            "Sites, software, events",
            (studies.sites(evidence), studies.software(evidence), record.actions(evidence)),
        ),
        Section("law", "Dates in law", (LAW,), (OUTSIDE,)),
        Section("limits", "What this does not prove", (), _confirmed(evidence)),
    )


def _confirmed(evidence: Evidence) -> tuple[str, ...]:
    """What no witness had seen yet when this was written."""
    until = max((one.size for one in evidence.witnessed), default=0)
    later = len(evidence.entries) - until
    if later <= 0:
        return (VERIFY,)
    unseen = (
        f"Of the {len(evidence.entries):,} events counted here no witness had confirmed the last "
        f"{later:,} when this page was written. The checkpoint in log/checkpoint was made after "
        "it and may say more: the verifier reads it."
    )
    return (unseen, VERIFY)
