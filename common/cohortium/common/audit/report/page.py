"""The report as one page: self-contained, without scripts, every text escaped."""

from importlib import resources

from cohortium.common.audit.evidence import Evidence
from cohortium.common.audit.report.contents import AUDIENCES, Section, scope, sections
from cohortium.common.audit.report.first_page import first_page, limits
from cohortium.common.audit.report.markup import Html, element
from cohortium.common.audit.report.table import html_table
from cohortium.common.audit.report.words import listed


def page(evidence: Evidence) -> str:
    """The whole page; the same text for the same evidence."""
    parts = sections(evidence)
    body = element(
        "main",
        _header(evidence),
        first_page(evidence),
        element(
            "nav",
            element(
                "ol",
                *(element("li", element("a", one.title, href=f"#{one.anchor}")) for one in parts),
            ),
            aria_label="Sections",
        ),
        *map(_section, parts),
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
    blinded = [one.study.name for one in evidence.studies if one.blinded]
    return element(
        "header",
        element("p", f"Evidence {AUDIENCES[evidence.audience]}", class_="eyebrow"),
        element("h1", f"{evidence.node}: what was done, who agreed, what it cost"),
        element("p", scope(evidence), class_="soft"),
        element(
            "p",
            f"Blinded: of {listed(blinded)} no result of a single site is shown here, nor a flag "
            "about one.",
            class_="banner",
        )
        if blinded
        else "",
    )


def _section(section: Section) -> Html:
    return element(
        "section",
        element("h2", section.title, id=section.anchor),
        limits() if section.anchor == "limits" else "",
        *(html_table(table) for table in section.tables),
        *(element("p", text) for text in section.words),
    )
