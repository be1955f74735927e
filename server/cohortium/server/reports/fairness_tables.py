"""Tables of the fairness audit, of the worth of joining, and of the release."""

from collections.abc import Callable, Sequence

from cohortium.common.fairness.verdicts import Contrast, Extreme, Invisible
from cohortium.common.metrics.value import Compared
from cohortium.server.reports import margins, measures, numbers, worth
from cohortium.server.reports.findings import FlagState
from cohortium.server.reports.report_data import ReportData
from cohortium.server.reports.table import Cell, Column, Table, cell, ranged, text

ALL = "all sites"


def gaps(data: ReportData) -> Table:
    """Every contrast over all sites with its verdict, base rates beside."""
    contrasts = data.audit.contrasts if data.audit else ()
    return _gaps(
        "gaps",
        "Groups against the reference group: gap, margin and verdict",
        [contrast for contrast in contrasts if contrast.site is None],
    )


def gaps_by_site(data: ReportData) -> Table:
    """The same at each site."""
    contrasts = data.audit.contrasts if data.audit else ()
    return _gaps(
        "gaps_by_site",
        "Groups against the reference group at each site",
        [contrast for contrast in contrasts if contrast.site is not None],
    )


def _gaps(name: str, caption: str, contrasts: Sequence[Contrast]) -> Table:
    return Table(
        name,
        caption,
        (
            Column("Criterion", ("criterion", "outcome", "primary")),
            Column("Group", ("attribute", "level", "reference")),
            Column("Where", ("site", "sites")),
            Column("Patients", ("n", "reference_n"), number=True),
            Column("Base rates", ("base_rate", "reference_base_rate"), number=True),
            Column("Values", ("value", "reference_value"), number=True),
            Column("Gap", ("gap", "low", "high"), number=True),
            Column("Margin", ("margin",), number=True),
            Column("p, adjusted", ("p", "adjusted_p"), number=True),
            Column("Verdict", ("verdict", "detectable")),
            Column("Remarks", ("reason",)),
        ),
        tuple(_gap(contrast) for contrast in contrasts),
    )


def extremes(data: ReportData) -> Table:
    """The worst group and the largest gap of each attribute."""
    found = data.audit.extremes if data.audit else ()
    return Table(
        "extremes",
        "Worst group and largest gap, with 95% intervals from a bootstrap of the counts",
        (
            Column("Criterion", ("criterion", "outcome")),
            Column("Attribute", ("attribute",)),
            Column("Groups", ("levels",), number=True),
            Column("Worst group", ("worst_level",)),
            Column("Its value", ("worst", "worst_low", "worst_high"), number=True),
            Column("Largest gap, points", ("gap", "gap_low", "gap_high"), number=True),
        ),
        tuple(_extreme(one) for one in found),
    )


def equalised_odds(data: ReportData) -> Table:
    """Sensitivity and false positive rate together."""
    found = data.audit.equalised_odds if data.audit else ()
    return Table(
        "equalised_odds",
        "Equalised odds: the worse verdict of sensitivity and false positive rate",
        (
            Column("Attribute", ("attribute", "outcome")),
            Column("Group", ("level",)),
            Column("Against", ("reference",)),
            Column("Where", ("site",)),
            Column("Larger gap, without sign", ("gap",), number=True),
            Column("Verdict", ("verdict",)),
        ),
        tuple(
            (
                Cell(
                    (one.attribute, one.outcome or None),
                    f"{one.attribute}: {one.outcome}" if one.outcome else one.attribute,
                ),
                text(one.level),
                text(one.reference),
                Cell((one.site,), one.site or ALL),
                cell(one.gap, lambda gap: f"{100 * gap:.1f} points", "not measured"),
                text(one.verdict),
            )
            for one in found
        ),
    )


def invisible(data: ReportData) -> Table:
    """Groups about which nothing can be said, where and why; one row a group."""
    found = data.audit.invisible if data.audit else ()
    groups: dict[tuple[str, str], list[Invisible]] = {}
    for one in found:
        groups.setdefault((one.attribute, one.level), []).append(one)
    return Table(
        "invisible",
        "Groups that the audit could not see",
        (
            Column("Attribute", ("attribute",)),
            Column("Group", ("level",)),
            Column("Where", ("sites",)),
            Column("Why", ("reason",)),
        ),
        tuple(
            (text(attribute), text(level), _hidden_at(unseen), text(_why(unseen)))
            for (attribute, level), unseen in groups.items()
        ),
    )


def _hidden_at(unseen: list[Invisible]) -> Cell:
    sites = [one.site for one in unseen if one.site is not None]
    nowhere = any(one.site is None for one in unseen)
    return Cell((" ".join(sites),), "at every site" if nowhere else ", ".join(sites))


def _why(unseen: list[Invisible]) -> str:
    reasons = [one.reason for one in unseen if one.site is not None] or [
        one.reason for one in unseen
    ]
    return "; ".join(dict.fromkeys(reasons))


def worth_table(data: ReportData) -> Table:
    """The federated model against others, on the same patients."""
    return Table(
        "worth",
        "The federated model against others on the same patients, with 95% intervals",
        (
            Column("Other model", ("other",)),
            Column("Measure", ("measure",)),
            Column("Where", ("site", "attribute", "level")),
            Column("Patients", ("patients",), number=True),
            Column("Federated", ("federated",), number=True),
            Column("Other", ("other_value",), number=True),
            Column("Federated minus other", ("difference", "low", "high"), number=True),
            Column("p", ("p",), number=True),
            Column(
                "More than the reference group", ("extra", "extra_low", "extra_high"),
                   number=True),
            Column("Remarks", ("reason",)),
        ),
        tuple(_compared(one) for one in data.worth.compared),
    )  # fmt: skip


def crossed(data: ReportData) -> Table:
    """Models by sites: one row a model, one column a site."""
    found = data.worth.crossed
    names = list(dict.fromkeys(site for one in found for site in one.sites))
    return Table(
        "crossed",
        "Models trained without a site, measured at each",
        (
            Column("Model", ("model",)),
            Column("Measure", ("measure",)),
            *(Column(f"At {name}", (name,), number=True) for name in names),
        ),
        tuple(
            (
                text(one.model),
                Cell((one.measure,), measures.name(one.measure)),
                *(
                    cell(one.sites.get(name), measures.writer(one.measure), "not shown")
                    for name in names
                ),
            )
            for one in found
        ),
    )


def flags(data: ReportData) -> Table:
    """Every flag of the release gates, and who answered for it."""
    found = data.release.flags if data.release else ()
    return Table(
        "flags",
        "Flags of the release gates",
        (
            Column("Flag", ("flag",)),
            Column("Gate", ("gate",)),
            Column("Where", ("site",)),
            Column("Finding", ("finding", "numbers")),
            Column("State", ("open", "decision")),
            Column("Reason", ("reason",)),
            Column("Signed by", ("by",)),
            Column("At", ("at",)),
        ),
        tuple(_flag(one) for one in found),
    )


def _gap(contrast: Contrast) -> tuple[Cell, ...]:
    write = _writer(contrast.criterion)
    return (
        _kind(contrast),
        Cell(
            (contrast.attribute, contrast.level, contrast.reference),
            f"{contrast.attribute}: {contrast.level} against {contrast.reference}",
        ),
        Cell((contrast.site, " ".join(contrast.sites)), contrast.site or ALL),
        _pair(contrast.n, contrast.reference_n, lambda n: numbers.count(int(n))),
        _pair(contrast.base_rate, contrast.reference_base_rate, numbers.percent),
        _pair(contrast.value, contrast.reference_value, write),
        Cell(
            (contrast.gap, contrast.low, contrast.high),
            margins.gap(contrast),
            absent=contrast.gap is None,
        ),
        cell(contrast.margin, lambda margin: margins.size(contrast, margin), ""),
        _p(contrast),
        Cell((contrast.verdict, contrast.detectable), margins.verdict(contrast)),
        cell(contrast.reason or None, str, ""),
    )


def _kind(contrast: Contrast) -> Cell:
    """The criterion, and whether it was declared beforehand as the one that is tested."""
    named = _criterion(contrast.criterion, contrast.outcome)
    values = (*named.values, str(contrast.primary).lower())
    return Cell(values, named.text + (", primary" if contrast.primary else ""))


def _criterion(criterion: str, outcome: str) -> Cell:
    """The criterion; for one of several classes or labels, of which."""
    called = measures.CRITERIA.get(criterion, criterion)
    return Cell((criterion, outcome or None), f"{called}: {outcome}" if outcome else called)


def _p(contrast: Contrast) -> Cell:
    values = (contrast.p, contrast.adjusted_p)
    if contrast.adjusted_p is None:
        return Cell(values, "not known", absent=True)
    by = "Holm" if contrast.primary else "BH"
    small = contrast.adjusted_p < 0.001
    return Cell(values, ("< 0.001" if small else f"{contrast.adjusted_p:.3f}") + f" ({by})")


def _extreme(one: Extreme) -> tuple[Cell, ...]:
    write = _writer(one.criterion)
    return (
        _criterion(one.criterion, one.outcome),
        text(one.attribute),
        cell(one.levels, numbers.count, ""),
        text(one.worst_level),
        ranged(one.worst, one.worst_low, one.worst_high, write),
        ranged(one.gap, one.gap_low, one.gap_high, _points),
    )


def _compared(one: Compared) -> tuple[Cell, ...]:
    write = measures.writer(one.measure)
    return (
        Cell((one.other,), worth.other(one.other)),
        Cell((one.measure,), measures.name(one.measure)),
        Cell((one.site, one.attribute or None, one.level or None), worth.where(one)),
        cell(one.n, numbers.count, "not shown"),
        cell(one.federated, write, "not shown"),
        cell(one.other_value, write, "not shown"),
        Cell(
            (one.difference, one.low, one.high),
            worth.difference(one) if one.difference is not None else "not shown",
            absent=one.difference is None,
        ),
        cell(one.p, lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}", ""),
        ranged(
            one.extra,
            one.extra_low,
            one.extra_high,
            lambda value: worth.written(one.measure, value),
            "",
        ),
        cell(one.reason or None, str, ""),
    )


def _flag(one: FlagState) -> tuple[Cell, ...]:
    finding = one.subject + (f": {one.numbers}" if one.numbers else "")
    state = "open" if one.open else "answered for"
    return (
        cell(one.id, str, "blinded"),
        text(one.gate),
        Cell((one.site,), one.site or "the study"),
        Cell((one.subject, one.numbers or None), finding),
        Cell((str(one.open).lower(), one.decision), f"{state}: {one.decision}"
             if one.decision else state),
        cell(one.reason or None, str, ""),
        cell(one.by, str, "nobody" if one.open else "not shown"),
        cell(one.at, str, ""),
    )  # fmt: skip


def _points(gap: float) -> str:
    return f"{100 * gap:.1f}"


def _writer(criterion: str) -> Callable[[float], str]:
    return numbers.percent if criterion in measures.SHARE_CRITERIA else numbers.three_digits


def _pair(one: float | None, other: float | None, write: Callable[[float], str]) -> Cell:
    if one is None and other is None:
        return Cell((one, other), "not shown", absent=True)
    shown = ["not shown" if value is None else write(value) for value in (one, other)]
    return Cell((one, other), " / ".join(shown))
