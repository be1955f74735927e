"""fairness/1557-worksheet.csv: patient care decision tools under ACA section 1557 (45 CFR 92.210).

The rule binds the hospital that uses a tool: reasonable efforts to find inputs that measure race,
colour, national origin, sex, age or disability, and to mitigate the risk of discrimination. Inputs
are looked for by the study's own declaration and by their names; proxies are not looked for.
"""

import re
from collections.abc import Iterator

from cohortium.common.audit.evidence import Evidence, FlagFacts, StudyFacts
from cohortium.common.audit.paper import subject
from cohortium.common.audit.paper.text import ENTITY, csv_file, decimal
from cohortium.common.fairness.verdicts import Contrast

PATH = "fairness/1557-worksheet.csv"
HEADER = (
    "study",
    "row",
    "what",
    "trait",
    "finding",
    "value and 95% interval",
    "disposition",
    "owner",
    "to be completed",
)
TRAITS = {
    "race or colour": r"race|racial|ethnic\w*|colou?r|skin\w*",
    "national origin": r"origin|national\w*|country|language",
    "sex": r"sex|gender|pregnan\w*",
    "age": r"age|ages|birth\w*|born|dob",
    "disability": r"disab\w*|impair\w*|wheelchair",
}
CONFIRM = f"{ENTITY}: does it measure one, or stand for one?"


def worksheet_1557(evidence: Evidence) -> dict[str, bytes]:
    rows = [row for facts in evidence.studies for row in _rows(facts)]
    return {PATH: csv_file(HEADER, rows)}


def _rows(facts: StudyFacts) -> Iterator[tuple[str, ...]]:
    name = facts.study.name
    for column in facts.study.data.features:
        yield (name, "input", column, trait(column), _declared(facts, column), "", "", "", CONFIRM)
    left = {flag.id: flag for flag in facts.flags}
    for contrast in subject.contrasts(facts):
        if contrast.verdict not in _worth_a_row(contrast):
            continue
        flag = _flag(facts, contrast) if contrast.verdict == "GAP" else None
        if flag is not None:
            left.pop(flag.id, None)
        yield (name, "gap", _question(contrast), trait(contrast.attribute), _verdict(contrast),
               _value(contrast), *_answer(facts, flag))  # fmt: skip
    for unseen in subject.invisible(facts):
        where = "at any site" if unseen.site is None else f"at {unseen.site}"
        yield (name, "unseen group", f"{unseen.attribute}: {unseen.level}",
               trait(unseen.attribute), f"not seen {where}: {unseen.reason}", "", "", "",
               f"{ENTITY}: look at this group elsewhere")  # fmt: skip
    for flag in left.values():
        yield (name, "flag", subject.flag_text(flag, facts), "", flag.gate, "",
               *_answer(facts, flag))  # fmt: skip


def _worth_a_row(contrast: Contrast) -> tuple[str, ...]:
    """Over all sites also what could not be told; at single sites, gaps alone."""
    return ("GAP",) if subject.about_site(contrast) else ("GAP", "inconclusive", "not measured")


def trait(column: str) -> str:
    """The protected trait that a name sounds like; "" for none."""
    words = re.sub(r"([a-z])([A-Z])", r"\1 \2", column).replace("_", " ").lower()
    found = (name for name, stem in TRAITS.items() if re.search(rf"\b(?:{stem})\b", words))
    return next(found, "")


def _declared(facts: StudyFacts, column: str) -> str:
    if column in facts.study.fairness.attributes:
        return "an input, and the study compares results by it"
    return "its name says so; no result by it" if trait(column) else "nothing known of it"


def _question(contrast: Contrast) -> str:
    site = subject.about_site(contrast)
    return f"{site}: {subject.question(contrast)}" if site else subject.question(contrast)


def _verdict(contrast: Contrast) -> str:
    return contrast.verdict + (f": {contrast.reason}" if contrast.reason else "")


def _value(contrast: Contrast) -> str:
    if contrast.gap is None:
        return "unknown"
    interval = (
        f" ({decimal(contrast.low)} to {decimal(contrast.high)})"
        if contrast.low is not None
        else ""
    )
    return f"gap {decimal(contrast.gap)}{interval}, margin {decimal(contrast.margin)}"


def _flag(facts: StudyFacts, contrast: Contrast) -> FlagFacts | None:
    """The flag that was raised for it: of the fairness gate, about the same site and question."""
    site, question = subject.about_site(contrast), subject.question(contrast)
    for flag in facts.flags:
        if flag.gate == "fairness" and flag.site == site:
            said = flag.text.removeprefix(f"{site}: ") if site else flag.text
            if re.match(rf"{re.escape(question)}(?:, over all sites)?(?:: |$)", said):
                return flag
    return None


def _answer(facts: StudyFacts, flag: FlagFacts | None) -> tuple[str, str, str]:
    """Disposition, owner, and what is left."""
    if flag is None:
        return "", "", f"{ENTITY}: disposition and owner"
    if flag.open or flag.signature is None:
        return f"OPEN (flag {flag.id})", "", f"{ENTITY}: disposition and owner"
    said = flag.signature
    return (
        f"{subject.answer(flag, facts)} (flag {flag.id})",
        f"{said.name}, {said.at}",
        f"{ENTITY}: own decision to use it",
    )
