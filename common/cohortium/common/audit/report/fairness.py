"""Gaps between groups of patients, and groups that nobody could see."""

from cohortium.common.audit.evidence import Evidence
from cohortium.common.audit.report.table import Table
from cohortium.common.fairness.verdicts import Contrast

VERDICTS = ("GAP", "inconclusive", "not measured", "within margin")


def summary(evidence: Evidence) -> Table:
    """How many contrasts over all sites got which verdict, by study and attribute."""
    rows = []
    for one in evidence.studies:
        pooled = [c for c in one.audit.contrasts if c.site is None] if one.audit else []
        for attribute in dict.fromkeys(c.attribute for c in pooled):
            own: list[str] = [c.verdict for c in pooled if c.attribute == attribute]
            rows.append(
                (one.study.name, attribute, *(str(own.count(verdict)) for verdict in VERDICTS))
            )
    return Table(
        name="fairness-summary",
        title="Verdicts between groups of patients, over all sites",
        header=("study", "attribute", *VERDICTS),
        rows=tuple(rows),
        empty="No study has compared groups of patients.",
        note="Inconclusive is no good news: too few patients to tell. Nothing is ever called fair.",
        numeric=frozenset(VERDICTS),
    )


def contrasts(evidence: Evidence) -> Table:
    """Every contrast with its interval, for `fairness/contrasts.csv`."""
    return Table(
        name="contrasts",
        file="fairness/contrasts.csv",
        title="Contrasts",
        header=(
            "study", "attribute", "group", "reference", "criterion", "outcome", "site", "primary",
            "n", "of", "value", "reference value", "gap", "low", "high", "margin", "p",
            "adjusted p", "smallest detectable gap", "verdict", "reason",
        ),
        rows=tuple(
            (one.study.name, *_contrast(contrast))
            for one in evidence.studies
            for contrast in (one.audit.contrasts if one.audit else ())
        ),
        empty="No study has compared groups of patients.",
    )  # fmt: skip


def gaps(evidence: Evidence) -> Table:
    """The contrasts with the verdict GAP, for the page."""
    found = contrasts(evidence)
    place = found.header.index("verdict")
    return Table(
        name="gaps",
        file="fairness/contrasts.csv",
        title="Gaps beyond their margin",
        header=found.header,
        rows=tuple(row for row in found.rows if row[place] == "GAP"),
        empty="No contrast has shown a gap beyond its margin; that is no proof that there is none.",
        numeric=frozenset(("n", "value", "reference value", "gap", "low", "high", "margin")),
        wide=frozenset(
            ("outcome", "primary", "of", "p", "adjusted p", "smallest detectable gap", "verdict",
             "reason")
        ),
    )  # fmt: skip


def invisible(evidence: Evidence) -> Table:
    """Groups that could not be seen, and where; for `fairness/invisible.csv`."""
    return Table(
        name="invisible",
        file="fairness/invisible.csv",
        title="Groups that nobody could see",
        header=("study", "attribute", "group", "site", "reason"),
        rows=tuple(
            (one.study.name, unseen.attribute, unseen.level, unseen.site or "every site",
             unseen.reason)
            for one in evidence.studies
            for unseen in (one.audit.invisible if one.audit else ())
        ),
        empty="No declared group was hidden.",
    )  # fmt: skip


def performance(evidence: Evidence) -> Table:
    """How well models do over all patients, for `fairness/performance.csv`."""
    return Table(
        name="performance",
        file="fairness/performance.csv",
        title="Performance",
        header=("study", "measure", "part", "threshold", "horizon", "patients", "value", "low",
                "high", "reason"),
        rows=tuple(
            (
                one.study.name,
                found.measure,
                found.part,
                _text(found.threshold),
                _text(found.horizon),
                _text(found.pooled.of),
                _text(found.pooled.value),
                _text(found.pooled.low),
                _text(found.pooled.high),
                found.pooled.reason,
            )
            for one in evidence.studies
            for found in one.performance
        ),
        empty="No model was measured.",
    )  # fmt: skip


def _contrast(one: Contrast) -> tuple[str, ...]:
    return (
        one.attribute,
        one.level,
        one.reference,
        one.criterion.replace("_", " "),
        one.outcome,
        one.site or "all sites",
        "yes" if one.primary else "no",
        _text(one.n),
        _text(one.of),
        _text(one.value),
        _text(one.reference_value),
        _text(one.gap),
        _text(one.low),
        _text(one.high),
        _text(one.margin),
        _text(one.p),
        _text(one.adjusted_p),
        _text(one.detectable),
        one.verdict,
        one.reason,
    )


def _text(value: float | int | None) -> str:
    """Six digits at most, the same everywhere; "" for what is not known."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"
