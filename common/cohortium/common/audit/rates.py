"""fairness/rates.json: every rate that sites let be seen, with the counts that it follows from.

Whoever reads it can compute each value and interval again (`verify.py` does): k of n, Wilson's
interval; a gap between groups from the counts of both, Newcombe's. What is not shown is there
with its reason. Decimals are texts of six places, so that the file has one form.

    {"study": "...", "outcome": "", "site": "a", "attribute": "sex", "group": "female",
     "measure": "sensitivity", "threshold": "0.5", "suppressed": false, "k": 41, "n": 50,
     "value": "0.820000", "ci95": ["0.692025", "0.902305"], "ci_method": "wilson"}

site: "" for all sites together that show the counts, which `sites` names. attribute and group: ""
for all patients. outcome: the class or label where there are several. With noise in the counts
there is no interval: Wilson's would be too narrow.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cohortium.common.audit.evidence import Evidence, StudyFacts
from cohortium.common.fairness.counts import SHARES
from cohortium.common.fairness.verdicts import Contrast
from cohortium.common.metrics.intervals import newcombe, wilson
from cohortium.common.metrics.tallies import (
    BinaryTally,
    MulticlassTally,
    MultilabelTally,
    SiteEvaluation,
    SurvivalTally,
    Tally,
)
from cohortium.common.study import Study

NOT_SHOWN = "not shown by the site"
NO_SITE = "no site shows it"
NOBODY = "there is nobody to count"
NOISE = "the counts hold noise, which this interval would not include"

Row = dict[str, Any]
Counted = tuple[int, int]  # k of n
Asked = tuple[str, str, str]  # outcome, measure, threshold
Measured = dict[Asked, Counted | str]  # or why it is not shown


def rates(evidence: Evidence) -> Row:
    """The document, as plain values."""
    return {
        "v": 1,
        "rates": [row for facts in evidence.studies for row in _of_study(facts)],
        "gaps": [row for facts in evidence.studies for row in _gaps(facts)],
    }


def measured(tally: Tally, thresholds: Iterable[float]) -> Measured:
    """Every rate of a tally that is a share of counted patients."""
    if isinstance(tally, BinaryTally):
        return {("", *key): value for key, value in _binary(tally, thresholds).items()}
    if isinstance(tally, MulticlassTally):
        found: Measured = {("", "accuracy", ""): _share(tally, tally.correct, tally.n)}
        for code, one in tally.classes.items():
            values = _binary(one, ()).items()
            found |= {(code, *key): v for key, v in values if key[0] != "accuracy"}
        return found
    if isinstance(tally, MultilabelTally):
        found = {("", "all_right", ""): _share(tally, tally.all_right, tally.n)}
        for label, one in tally.labels.items():
            found |= {(label, *key): v for key, v in _binary(one, thresholds).items()}
        return found
    if isinstance(tally, SurvivalTally):
        return {("", "event_rate", ""): _share(tally, tally.events, tally.n)}
    return {}


def _binary(
    tally: BinaryTally, thresholds: Iterable[float]
) -> dict[tuple[str, str], Counted | str]:
    """By measure and threshold; of a class there is no threshold, as the likeliest is called."""
    cells = (tally.tp, tally.fp, tally.tn, tally.fn)
    first, *further = [f"{value:g}" for value in thresholds] or [""]
    found = {("prevalence", ""): _share(tally, tally.positives, tally.n)}
    found["accuracy", first] = _share(tally, tally.correct, tally.n)
    found |= {(name, first): value for name, value in _called(tally, *cells).items()}
    for place, threshold in enumerate(further):
        values = _called(tally, *_further(tally, place))
        found |= {(name, threshold): value for name, value in values.items()}
    return found


def _called(
    tally: Tally, tp: int | None, fp: int | None, tn: int | None, fn: int | None
) -> dict[str, Counted | str]:
    return {
        "sensitivity": _share(tally, tp, _sum(tp, fn)),
        "specificity": _share(tally, tn, _sum(tn, fp)),
        "false_positive_rate": _share(tally, fp, _sum(fp, tn)),
        "selection_rate": _share(tally, _sum(tp, fp), _sum(tp, fp, tn, fn)),
        "ppv": _share(tally, tp, _sum(tp, fp)),
        "npv": _share(tally, tn, _sum(tn, fn)),
    }


def _further(tally: BinaryTally, place: int) -> tuple[int | None, ...]:
    """(tp, fp, tn, fn) at one of the study's thresholds after the first."""
    if tally.n is None or tally.positives is None or place >= len(tally.further):
        return (None, None, None, None)
    called = tally.further[place]
    healthy = tally.n - tally.positives
    return called.tp, called.fp, healthy - called.fp, tally.positives - called.tp


def _sum(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _share(tally: Tally, k: int | None, n: int | None) -> Counted | str:
    return (tally.reason or NOT_SHOWN) if k is None or n is None else (k, n)


# ------------------------------------------------------------------ rows


def _of_study(facts: StudyFacts) -> Iterator[Row]:
    noisy = any(evaluation.noise_std for evaluation in facts.evaluations.values())
    for group, tallies in _groups(facts.study, facts.evaluations).items():
        by_site = {
            site: measured(tally, _thresholds(facts.study)) for site, tally in tallies.items()
        }
        asked = dict.fromkeys(key for values in by_site.values() for key in values)
        for key in asked:
            values = {site: found.get(key, NOT_SHOWN) for site, found in by_site.items()}
            about = _about(facts.study.name, key, group)
            yield _row({**about, "site": ""}, _together(values), noisy, _showing(values))
            for site in sorted(values):
                yield _row({**about, "site": site}, values[site], noisy)


def _thresholds(study: Study) -> tuple[float, ...]:
    return study.evaluation.thresholds


def _groups(
    study: Study, evaluations: Mapping[str, SiteEvaluation]
) -> dict[tuple[str, str], dict[str, Tally]]:
    """Tallies by attribute and level, and by site; ("", "") is everybody."""
    found: dict[tuple[str, str], dict[str, Tally]] = {("", ""): {}}
    for site in sorted(evaluations):
        found["", ""][site] = evaluations[site].overall
        for attribute, levels in sorted(evaluations[site].groups.items()):
            for level, tally in levels.items():
                found.setdefault((attribute, level), {})[site] = tally
    return found


def _about(study: str, key: Asked, group: tuple[str, str]) -> Row:
    outcome, measure, threshold = key
    return {
        "study": study,
        "outcome": outcome,
        "attribute": group[0],
        "group": group[1],
        "measure": measure,
        "threshold": threshold,
    }


def _showing(values: Mapping[str, Counted | str]) -> list[str]:
    return sorted(site for site, value in values.items() if not isinstance(value, str))


def _together(values: Mapping[str, Counted | str]) -> Counted | str:
    """Added up over the sites that show it."""
    shown = [value for value in values.values() if not isinstance(value, str)]
    return (sum(k for k, _ in shown), sum(n for _, n in shown)) if shown else NO_SITE


def _row(about: Row, value: Counted | str, noisy: bool, sites: list[str] | None = None) -> Row:
    if isinstance(value, str):
        return {**about, "suppressed": True, "reason": value}
    k, n = value
    row = {**about, "suppressed": False, "k": k, "n": n, "value": "", "ci95": [], "ci_method": ""}
    if sites is not None:
        row["sites"] = sites
    if not n:
        return {**row, "reason": NOBODY}
    row["value"] = _decimal(min(1.0, k / n))
    if noisy:
        return {**row, "reason": NOISE}
    return {**row, "ci95": [_decimal(end) for end in wilson(k, n)], "ci_method": "wilson"}


def _decimal(value: float) -> str:
    return f"{value:.6f}"


# ------------------------------------------------------------------ gaps


def _gaps(facts: StudyFacts) -> Iterator[Row]:
    """Every contrast of two shares; those of AUROC and calibration follow from no counts."""
    for one in facts.audit.contrasts if facts.audit else ():
        if one.criterion in SHARES:
            yield _gap(facts.study.name, one)


def _gap(study: str, one: Contrast) -> Row:
    about: Row = {
        "study": study,
        "outcome": one.outcome,
        "site": one.site or "",
        "attribute": one.attribute,
        "level": one.level,
        "reference": one.reference,
        "criterion": one.criterion,
        "verdict": one.verdict,
        "margin": f"{one.margin:g}",
    }
    if one.value is None or one.reference_value is None or not one.of or not one.reference_of:
        return {**about, "suppressed": True, "reason": one.reason or NOT_SHOWN}
    k, other = round(one.value * one.of), round(one.reference_value * one.reference_of)
    row = {
        **about,
        "suppressed": False,
        "sites": sorted(one.sites),
        "k": k,
        "n": one.of,
        "reference_k": other,
        "reference_n": one.reference_of,
        "gap": _decimal(k / one.of - other / one.reference_of),
        "ci95": [],
        "ci_method": "",
        "reason": one.reason,
    }
    low, high = newcombe((k, one.of), (other, one.reference_of))
    if one.low is None or one.high is None or abs(one.low - low) + abs(one.high - high) > 1e-9:
        return {**row, "reason": NOISE}
    return {**row, "ci95": [_decimal(low), _decimal(high)], "ci_method": "newcombe"}
