"""The report as one page: self-contained, without scripts, every text escaped."""

from importlib import resources

from cohortium.common.audit.evidence import Evidence
from cohortium.common.audit.report import budget, egress, fairness, record, signatures, studies
from cohortium.common.audit.report.first_page import first_page, limits
from cohortium.common.audit.report.markup import Html, element
from cohortium.common.audit.report.table import Table, html_table
from cohortium.common.audit.report.words import count, day, listed

AUDIENCES = {
    "site": "for the site itself: its own whole log, which never leaves it but by this file",
    "consortium": "for members of the consortium: no person is named but those who signed",
    "regulator": "for a regulator: the whole log of the consortium, nothing withheld",
}
LAW = (
    ("EU AI Act, high-risk systems of Annex III", "from 2 December 2027"),
    ("EU AI Act, products of Annex I such as medical devices", "from 2 August 2028"),
    ("EU AI Act, Article 19: logs kept", "6 months at least"),
    ("HIPAA, 45 CFR 164.316(b)(2)(i): documentation kept", "6 years"),
)


def page(evidence: Evidence) -> str:
    """The whole page; the same text for the same evidence."""
    sections = _sections(evidence)
    body = element(
        "main",
        _header(evidence),
        first_page(evidence),
        element(
            "nav",
            element(
                "ol",
                *(element("li", element("a", title, href=f"#{name}"))
                  for name, title, _ in sections),
            ),
            aria_label="Sections",
        ),
        *(
            element("section", element("h2", title, id=name), *content, class_="part")
            for name, title, content in sections
        ),
    )  # fmt: skip
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = (
        '<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"/>\n'
        '<meta name="color-scheme" content="light dark"/>\n'
        f"{element('title', f'{evidence.node}: evidence')}\n<style>\n{_style()}</style>"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _style() -> str:
    folder = resources.files("cohortium.common.audit.report")
    return folder.joinpath("style.css").read_text(encoding="utf-8")


def _header(evidence: Evidence) -> Html:
    shown = sum(entry.line is not None for entry in evidence.entries)
    hidden = len(evidence.entries) - shown
    since = f"from {day(evidence.since)}" if evidence.since else "from the beginning"
    until = f"until {day(evidence.until)}" if evidence.until else f"until {day(evidence.at)}"
    names = {one.digest: one.study.name for one in evidence.studies}
    about = f"study {names.get(evidence.study, evidence.study[:12])}, " if evidence.study else ""
    blinded = [one.study.name for one in evidence.studies if one.blinded]
    return element(
        "header",
        element("p", f"Evidence {AUDIENCES[evidence.audience]}", class_="eyebrow"),
        element("h1", f"{evidence.node}: what was done, who agreed, what it cost"),
        element(
            "p",
            f"{about}{since} {until}. Exported by ",
            element("b", evidence.officer),
            f". {count(shown, 'event')} of {len(evidence.entries):,} in the log "
            f"{'is' if shown == 1 else 'are'} shown"
            + (f", {hidden:,} withheld: of those only the hashes are here." if hidden else "."),
            class_="soft",
        ),
        element(
            "p",
            f"Blinded: of {listed(blinded)} no result of a single site is shown here, nor a flag "
            "about one.",
            class_="banner",
        )
        if blinded
        else "",
    )


def _sections(evidence: Evidence) -> list[tuple[str, str, list[Html]]]:
    """Anchor, title and content of each section, in order."""
    decided, left = signatures.decisions(evidence), egress.messages(evidence)
    return [
        ("approvals", "Approvals and signatures",
         _tables(signatures.approvals(decided), signatures.signatures(evidence, decided))),
        ("egress", "What left the building",
         _tables(egress.summary(evidence, left), egress.register(evidence, left))),
        ("privacy", "Privacy",
         _tables(budget.budget(budget.accounts(evidence)), budget.by_study(evidence),
                 studies.selftests(evidence))),
        ("flags", "Flags, alarms and refusals",
         _tables(studies.all_flags(evidence), record.alarms(evidence), record.refusals(evidence))),
        ("review", "Review, witnesses and earlier exports",
         _tables(record.reviews(evidence), record.witnesses(evidence), record.exports(evidence))),
        ("studies", "Studies and rounds",
         _tables(studies.studies(evidence), studies.rounds(evidence))),
        ("traceability", "From a model back to its data",
         _tables(studies.models(evidence), studies.traceability(evidence, decided, left))),
        ("fairness", "Groups of patients",
         _tables(fairness.summary(evidence), fairness.gaps(evidence),
                 fairness.invisible(evidence))),
        ("parties", "Sites, software, events",
         _tables(studies.sites(evidence), studies.software(evidence), record.actions(evidence))),
        ("law", "Dates in law", _law()),
        ("limits", "What this does not prove", _limits(evidence)),
    ]  # fmt: skip


def _tables(*tables: Table) -> list[Html]:
    return [html_table(table) for table in tables]


def _law() -> list[Html]:
    table = Table(
        name="law",
        title="When duties begin, and how long records are kept",
        header=("rule", "when"),
        rows=LAW,
        empty="",
        note="An engineer's reading, no legal advice.",
    )
    words = (
        "Research before a product is placed on the market is outside the AI Act (Article 2(6) and "
        "(8)); who places it on the market later needs these records. Nothing here says that a "
        "duty is met: that is for the provider, the hospital and their counsel to judge."
    )
    return [html_table(table), element("p", words)]


def _limits(evidence: Evidence) -> list[Html]:
    until = max((one.size for one in evidence.witnessed), default=0)
    later = len(evidence.entries) - until
    words = (
        f"Events after place {until:,} of the log ({later:,} of those counted here) had not been "
        "confirmed by a witness when this page was written. The checkpoint in log/checkpoint, made "
        "after it, may say more: the verifier reads it."
    )
    return [
        limits(),
        element("p", words) if later else Html(""),
        element(
            "p",
            "To verify: get the verifier and the consortium's policy file from a place that you "
            "trust, never from the bundle itself, and follow README.txt. A page alone proves "
            "nothing: the manifest's hash of this one is what was signed.",
        ),
    ]
