"""annex-iv/index.md: the technical documentation of EU AI Act Annex IV, begun.

All points of the annex (Regulation (EU) 2024/1689), each with the files that say something of it,
or marked for the provider. It claims nothing: research before placing on the market is outside the
Act (Art. 2(6), (8)), and whoever brings a model to market later needs these records.
"""

from collections.abc import Iterable

from cohortium.common.audit.evidence import Evidence, Files, StudyFacts
from cohortium.common.audit.paper import subject
from cohortium.common.audit.paper.account import promise
from cohortium.common.audit.paper.control import Control, matching, of
from cohortium.common.audit.paper.text import PROVIDER, listed, markdown, paragraphs, table

PATH = "annex-iv/index.md"
FRAMEWORK = "EU AI Act, Annex IV"
DATES = """\
Dates: the Act's duties for high-risk systems apply to uses listed in Annex III from
**2 December 2027**, and to products under Annex I, medical devices among them, from
**2 August 2028** (Digital Omnibus, approved by the Council on 29 June 2026). Check them: they
have been moved before."""
CLAIM = """\
This is a skeleton that the system filled as far as its evidence goes. It is no statement of
conformity, and no classification: both are the provider's. Links lead to files of this bundle."""


def annex_iv(evidence: Evidence, files: Files) -> dict[str, bytes]:
    parts = [
        "# Technical documentation (EU AI Act, Annex IV): begun",
        DATES,
        CLAIM,
        f"Exported {evidence.at} by {markdown(evidence.node)}, audience {evidence.audience}.",
    ]
    models = subject.folders(evidence)
    for folder, facts in models:
        parts += [_title(facts), _points(folder, facts, files)]
    if not models:
        parts += ["**No model is in this bundle.**", _points("", None, files)]
    return {PATH: paragraphs(*parts)}


def _title(facts: StudyFacts) -> str:
    return (
        f"## {markdown(facts.study.name)}\n\n"
        f"Model sha256 `{facts.model.sha256 if facts.model else ''}`, study sha256 "
        f"`{facts.digest}`. Privacy: {markdown(promise(facts))}."
    )


def _points(folder: str, facts: StudyFacts | None, files: Files) -> str:
    rows = []
    for point in of(FRAMEWORK):
        patterns = _patterns(point, folder, facts)
        links = _links(matching(files, patterns))
        filled = links or "no file in this bundle"
        rows.append((point.reference, point.title, filled, f"{PROVIDER}: {point.residual}"))
    return table(("point", "asks for", "in this bundle", "to complete"), rows)


def _patterns(point: Control, folder: str, facts: StudyFacts | None) -> list[str]:
    """Those of the section's own model and study."""
    if facts is None:
        return [pattern for pattern in point.files if "{" not in pattern]
    names = {"model": folder, "study": facts.study.name}
    return [pattern.format(**names) for pattern in point.files]


def _links(paths: Iterable[str]) -> str:
    """Relative to the folder that the index lies in."""
    return listed((f"[{path}](../{path})" for path in paths), "")
