"""The first page: what an officer who has ten minutes must know, each answer with its rows."""

from dataclasses import dataclass, replace

from cohortium.common.audit.evidence import Evidence
from cohortium.common.audit.report import budget, egress, record, signatures, studies
from cohortium.common.audit.report.budget import Account
from cohortium.common.audit.report.markup import Html, element, join
from cohortium.common.audit.report.table import Table, html_table
from cohortium.common.audit.report.words import (
    IN_WORDS,
    count,
    day,
    epsilon,
    listed,
    share_found,
    size,
)

MOST = 8  # rows of a table on the first page
LIMITS = {
    "That what was recorded is true.": "The record is whole and its parts agree; a site whose "
    "software was altered could have recorded something else.",
    "Who sat at the keyboard.": "A signature shows the printed name, the account, the key; there "
    "is no second authentication.",
    "Privacy beyond the ledger.": "Epsilon covers the releases that the ledger lists, for one "
    "patient as the unit, and nothing that left by another way.",
    "That results are the same for everybody.": "Where no gap is shown, there may be one that too "
    "few patients hide.",
    "That a duty in law is met.": "References to rules are a help to those who judge that, and no "
    "certificate.",
}


@dataclass(frozen=True)
class Tile:
    """A number that is seen first; bad: somebody has to act."""

    title: str
    big: str
    why: str
    bad: bool = False


def first_page(evidence: Evidence) -> Html:
    """Tiles, then a block for each question."""
    decided, left = signatures.decisions(evidence), egress.messages(evidence)
    found = budget.accounts(evidence)
    reviews, alarms = record.reviews(evidence), record.alarms(evidence)
    opened, witnesses = studies.open_flags(evidence), record.witnesses(evidence)
    return join(
        element("div", *map(_tile, tiles(evidence)), class_="tiles"),
        _block("Who approved what", _few(signatures.in_short(decided), "approvals"), "approvals"),
        _block("What left the building", _few(egress.summary(evidence, left), "egress"), "egress"),
        _block("Privacy budget by site", _bars(found), "privacy"),
        _block("Open flags", _flags(evidence, opened, alarms), "flags"),
        _block("Proof of review", _few(reviews, "review"), "review"),
        _block("Witnessed by whom, until when", _few(witnesses, "review"), "review"),
        element(
            "section",
            element("h3", "What this does not prove"),
            limits(),
            class_="limits",
        ),
    )


def tiles(evidence: Evidence) -> tuple[Tile, ...]:
    """What is seen at a glance."""
    return (
        _decided(signatures.decisions(evidence)),
        _left(egress.messages(evidence)),
        _spent(budget.accounts(evidence)),
        _open(evidence, studies.open_flags(evidence), record.alarms(evidence)),
        _reviewed(record.reviews(evidence)),
        _witnessed(evidence),
    )


def limits() -> Html:
    """What no bundle shows, however well it verifies."""
    return element(
        "ul", *(element("li", element("b", what), f" {why}") for what, why in LIMITS.items())
    )


def _decided(decided: tuple[signatures.Decision, ...]) -> Tile:
    persons = {one.person for one in decided if one.person}
    return Tile(
        "Decisions", str(len(decided)), f"signed or said by {count(len(persons), 'person')}"
    )


def _left(left: tuple[egress.Message, ...]) -> Tile:
    sites = len({one.site for one in left})
    return Tile(
        "Left the building",
        count(len(left), "message"),
        f"{size(egress.total(left))} from {count(sites, 'site')}",
    )


def _spent(found: tuple[Account, ...]) -> Tile:
    if not found:
        return Tile("Privacy spent, at most", "none recorded", "no ledger entry is shown")
    most = max(found, key=lambda one: one.share)
    return Tile(
        "Privacy spent, at most",
        f"ε {epsilon(most.spent)}",
        f"of a cap of {epsilon(most.cap)}, at site {most.site}",
        most.share > 1,
    )


def _open(evidence: Evidence, opened: Table, alarms: Table) -> Tile:
    raised = sum(len(one.flags) for one in evidence.studies)
    if evidence.role == "site" and not alarms.rows:
        return Tile("Alarms", "none", "flags are the coordinator's to raise")
    more = f"; {count(len(alarms.rows), 'alarm')}" if alarms.rows else ""
    return Tile("Open flags", str(len(opened.rows)), f"of {raised} raised{more}",
                bool(opened.rows or alarms.rows))  # fmt: skip


def _reviewed(reviews: Table) -> Tile:
    if not reviews.rows:
        return Tile("Log reviews", "none", "recorded and shown", True)
    return Tile("Log reviews", str(len(reviews.rows)), f"last on {reviews.rows[-1][0][:10]}")


def _witnessed(evidence: Evidence) -> Tile:
    seen, all_of_them = len(evidence.witnessed), len(evidence.witnesses)
    if not seen:
        return Tile("Witnesses", f"0 of {all_of_them}", "nobody has confirmed the log yet", True)
    until = max(one.size for one in evidence.witnessed)
    return Tile("Witnesses", f"{seen} of {all_of_them}", f"up to event {until:,} of the log")


def _tile(tile: Tile) -> Html:
    return element(
        "div",
        element("p", tile.title, class_="what"),
        element("p", tile.big, class_="big"),
        element("p", tile.why, class_="why"),
        class_="tile bad" if tile.bad else "tile",
    )


def _block(title: str, content: Html, section: str) -> Html:
    more = element("a", "more", href=f"#{section}", aria_label=f"more on: {title}", class_="more")
    return element("section", element("h3", title, " ", more), content, class_="block")


def _few(table: Table, section: str, hidden: frozenset[str] = frozenset()) -> Html:
    """The first rows of a table that stands in full further below."""
    short = replace(
        table,
        name=f"first-{table.name}",
        rows=tuple(tuple(map(_readable, row)) for row in table.rows[:MOST]),
        wide=table.wide | hidden,
        file="",
    )
    left = len(table.rows) - MOST
    rest = element("p", f"{left} more: ", element("a", "see all", href=f"#{section}"),
                   class_="note") if left > 0 else ""  # fmt: skip
    return join(html_table(short, heading=False, stacked=True), rest)


def _readable(cell: str) -> str:
    """A time without its seconds."""
    return day(cell) if len(cell) == 24 and cell[10] == "T" and cell.endswith("Z") else cell


def _bars(found: tuple[Account, ...]) -> Html:
    if not found:
        return element("p", "No entry of a privacy ledger is shown.", class_="soft")
    words = f"Per patient, over all studies. In words: {IN_WORDS}the share that is said."
    left = len(found) - MOST
    more = f" {left} further datasets: see below." if left > 0 else ""
    return join(
        element("div", *map(_bar, found[:MOST]), class_="bars"),
        element("p", words + more, class_="note"),
    )


def _bar(one: Account) -> Html:
    width = f"{100 * min(one.share, 1.0):.1f}"
    drawing = element(
        "svg",
        element("rect", class_="cap", width="100", height="6"),
        element("rect", class_="over" if one.share > 1 else "spent", width=width, height="6"),
        viewBox="0 0 100 6",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    return element(
        "div",
        element("p", element("b", one.site), f", dataset {one.dataset}"),
        drawing,
        element(
            "p",
            element("b", f"ε {epsilon(one.spent)}"),
            f" of {epsilon(one.cap)} ({100 * one.share:.0f}%) at δ {one.delta:g}; found in at most "
            f"{share_found(one.found)} of cases",
        ),
        class_="budget",
    )


def _flags(evidence: Evidence, opened: Table, alarms: Table) -> Html:
    if evidence.role == "site":
        told = "The flags of a release are the coordinator's to raise: its bundle shows them."
        alarmed = join(element("h4", alarms.title), _few(alarms, "flags")) if alarms.rows else ""
        return join(alarmed, element("p", told, class_="soft"))
    unfinished = [one.study.name for one in evidence.studies if one.state != "completed"]
    note = (
        f"Flags are raised when a study has ended: {listed(unfinished[:MOST])} "
        f"{'has' if len(unfinished) == 1 else 'have'} not been completed."
        if unfinished
        else ""
    )
    return join(
        _few(opened, "flags", frozenset(("answered by", "at", "reason", "state"))),
        join(element("h4", alarms.title), _few(alarms, "flags")) if alarms.rows else "",
        element("p", note, class_="note") if note else "",
    )
