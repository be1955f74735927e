"""What somebody with two minutes must know of a study, in sentences; the page says why."""

from collections.abc import Iterator
from dataclasses import dataclass

from cohortium.common.fairness.attributes import OTHERS, SITE
from cohortium.common.fairness.verdicts import Contrast
from cohortium.common.metrics.intervals import newcombe
from cohortium.common.metrics.performance import Estimate
from cohortium.server.reports import margins, measures, numbers
from cohortium.server.reports.report_data import ReportData

VAGUE = 0.6  # the width of an interval of a share that says next to nothing
LISTED = 5  # names in a sentence; then "and 3 more"
PLAIN = {  # by kind of outcome: measure, what knowing nothing gives, and how to say it
    "survival": ("concordance", 0.5, "guessing gives 0.500"),
    "regression": ("r2", 0.0, "always giving the mean gives 0"),
    "reconstruction": ("variance_explained", 0.0, "always giving each site's mean gives 0"),
    "generation": ("variance_explained", 0.0, "always giving each site's mean gives 0"),
    "contacts": ("auroc", 0.5, "guessing gives 0.500"),
}


@dataclass(frozen=True)
class Point:
    """One answer of the first screen, and the section that says more."""

    question: str
    answers: tuple[str, ...]
    section: str


def points(data: ReportData) -> list[Point]:
    """The answers in the order in which they are asked."""
    found = [
        Point("What was predicted, by whom", (_what(data),), "sites"),
        Point("How well", (verdict(data), *_elsewhere(data)), "performance"),
        Point("Differences between groups", tuple(_differences(data)), "groups"),
        Point("Groups nobody could see", (_unseen(data),), "invisible"),
        Point("Privacy, spent and promised", (_privacy(data),), "privacy"),
        Point("Release", tuple(_release(data)), "release"),
    ]
    return [point for point in found if any(point.answers)]


def verdict(data: ReportData) -> str:
    """One sentence: is the model better than knowing nothing?"""
    if data.kind in PLAIN:
        return _plain(data, *PLAIN[data.kind])
    shown = accuracy(data)
    if shown.value is None:
        return "No site could show a result, so nothing is known about this model."
    right = f"The model is right for {numbers.percent(shown.value)} of the test patients"
    if data.kind == "labelling":
        right = f"The model is right at {numbers.percent(shown.value)} of a patient's places"
    if data.kind == "multilabel":
        right = f"All labels are right for {numbers.percent(shown.value)} of the test patients"
    if shown.low is not None and shown.high is not None:
        right += f" (95% interval {numbers.interval(shown.low, shown.high)})"
    majority = data.summary.majority_accuracy
    if majority is None:
        return f"{right}."
    base = numbers.percent(majority)
    if shown.value <= majority:
        return f"{right}: no better than always giving the more frequent outcome ({base})."
    if shown.low is not None and shown.low <= majority:
        return (
            f"{right}; always giving the more frequent outcome would be right for {base}, which "
            "the interval includes: it has not been shown to be better."
        )
    return f"{right}; always giving the more frequent outcome would be right for {base}."


def accuracy(data: ReportData) -> Estimate:
    """Over all patients of the sites that show it, else the mean of the sites."""
    for found in data.performance:
        called = found.measure in ("accuracy", "all_right") and not found.part
        if called and found.pooled.value is not None:
            return found.pooled
    weighted = data.summary.weighted.get("accuracy")
    mean = data.summary.headline.get("accuracy")
    return Estimate(value=mean if weighted is None else weighted)


def impossibility(data: ReportData) -> str:
    """Where base rates differ, no model can be calibrated and err equally often in all groups."""
    differing = dict.fromkeys(
        f"{c.attribute}: {c.level} {numbers.percent(c.base_rate or 0.0)} against {c.reference} "
        f"{numbers.percent(c.reference_base_rate or 0.0)}"
        for c in _contrasts(data)
        if _rates_differ(c)
    )
    if not differing:
        return ""
    return (
        f"The outcome is not equally frequent in all groups ({_listed(list(differing), '; ')}). "
        "Then no model short of a perfect one can be calibrated in each group and also err "
        "equally often in each (Chouldechova 2017; Kleinberg et al. 2016): which of the two "
        "matters here is a decision about the use, not a result."
    )


def between_sites(contrast: Contrast) -> bool:
    """Is it a site against the others, which the audit adds, and no group of patients?"""
    return (contrast.attribute, contrast.reference) == (SITE, OTHERS)


def seen(data: ReportData) -> dict[str, list[Contrast]]:
    """The contrasts of groups of patients over all sites, by verdict."""
    found: dict[str, list[Contrast]] = {verdict: [] for verdict in margins.SHAPES}
    for contrast in _contrasts(data):
        found[contrast.verdict].append(contrast)
    return found


def _contrasts(data: ReportData) -> list[Contrast]:
    found = data.audit.contrasts if data.audit else ()
    return [c for c in found if c.site is None and not between_sites(c)]


def _what(data: ReportData) -> str:
    outcome = f"“{data.outcome}”, by " if data.outcome else "By "
    names = [site.name for site in data.sites]
    external = [site.name for site in data.sites if site.external]
    text = f"{outcome}{len(names)} sites ({_listed(names)})." if names else ""
    if external:
        text += f" Measured only, not trained on: {_listed(external)}."
    return text


def _elsewhere(data: ReportData) -> Iterator[str]:
    """Ranking, and what to expect at a site that was not there."""
    for found in data.performance:
        over = found.over_sites
        if found.measure not in ("auroc", "concordance") or over is None:
            continue
        if data.kind in PLAIN and found.measure == PLAIN[data.kind][0]:
            continue
        ends = measures.interval(found.measure, over.low, over.high)
        far = measures.interval(found.measure, over.new_low, over.new_high)
        new = f"at a further site expect {far}"
        if over.new_high - over.new_low > VAGUE:
            new = f"from {over.sites} sites nothing can be said of a further one"
        yield (
            f"{measures.name(found.measure)} {numbers.three_digits(over.mean)} as a mean over "
            f"sites (95% interval {ends}; 0.5 is guessing); {new}."
        )
        return


def _plain(data: ReportData, measure: str, nothing: float, words: str) -> str:
    found = next((f for f in data.performance if f.measure == measure), None)
    shown = Estimate() if found is None else found.pooled
    where = "over all patients"
    if found is not None and shown.value is None and found.over_sites is not None:
        over, where = found.over_sites, "as a mean over sites"
        shown = Estimate(value=over.mean, low=over.low, high=over.high)
    if shown.value is None:
        own = [e for e in found.sites.values() if e.value is not None] if found else []
        if not own:
            return "No site could show a result, so nothing is known about this model."
        values = sorted(e.value for e in own if e.value is not None)
        write = measures.writer(measure)
        return (
            f"{measures.name(measure)} from {write(values[0])} to {write(values[-1])} at the "
            f"{len(values)} sites that show it ({words}); too few for a mean with an interval."
        )
    text = f"{measures.name(measure)} {measures.writer(measure)(shown.value)} {where}"
    if shown.low is not None and shown.high is not None:
        text += f" (95% interval {measures.interval(measure, shown.low, shown.high)})"
    text += f"; {words}"
    if shown.value <= nothing:
        return f"{text}: no better than knowing nothing."
    if shown.low is not None and shown.low <= nothing:
        return f"{text}, which the interval includes: it has not been shown to be better."
    return f"{text}."


def _differences(data: ReportData) -> Iterator[str]:
    if data.audit is None or not _contrasts(data):
        yield (
            "Not looked at: the study names no attributes of patients, or nothing was measured. "
            "Nothing is known about differences between groups."
        )
        return
    found = seen(data)
    for contrast in found["GAP"][:LISTED]:
        yield "GAP: " + described(contrast)
    if len(found["GAP"]) > LISTED:
        yield f"and {len(found['GAP']) - LISTED} more gaps, listed below."
    if not found["GAP"]:
        yield "No gap larger than its margin was shown."
    yield _counted(found)


def described(contrast: Contrast) -> str:
    """`sensitivity of sex female: 12.3 points below male (...), margin 5.0 points`."""
    criterion = measures.CRITERIA.get(contrast.criterion, contrast.criterion)
    if contrast.outcome:
        criterion += f" of {contrast.outcome}"
    kind = "" if contrast.primary else ", exploratory"
    return (
        f"{criterion}, {contrast.attribute} {contrast.level} against {contrast.reference}: "
        f"{margins.gap(contrast)}, margin {margins.size(contrast, contrast.margin)}{kind}."
    )


def _counted(found: dict[str, list[Contrast]]) -> str:
    total = sum(map(len, found.values()))
    open_, unmeasured = len(found["inconclusive"]), len(found["not measured"])
    text = (
        f"Of {total} comparisons, {len(found['GAP'])} show a gap, "
        f"{len(found['within margin'])} lie within their margin"
    )
    if open_ or unmeasured:
        text += (
            f", {open_} are inconclusive and {unmeasured} could not be measured. For those, "
            "differences have been neither shown nor excluded"
        )
    return text + "."


def _unseen(data: ReportData) -> str:
    if data.audit is None:
        return ""
    names = [f"{i.attribute} {i.level}" for i in data.audit.invisible if i.site is None]
    somewhere = {(i.attribute, i.level) for i in data.audit.invisible if i.site is not None}
    text = "Every declared group was seen at one site at least."
    if names:
        listed = _listed(names, "; ")
        text = f"{listed}: at no site, so nobody knows how often the model is right for them."
    if somewhere:
        text += f" At some sites {len(somewhere)} of the groups could not be seen."
    return text


def _privacy(data: ReportData) -> str:
    spent, promised = data.promise.spent, data.promise.epsilon
    if promised is None and spent is None:
        return "No differential privacy: the study promised none, and no site accounted for any."
    words = "an unknown ε" if promised is None else f"ε = {numbers.epsilon(promised)}"
    if data.promise.delta is not None:
        words += f" at δ = {numbers.delta(data.promise.delta)}"
    if spent is None:
        return f"Promised to each patient: at most {words}. Spent: not known."
    kept = promised is None or spent <= promised * (1 + 1e-9)
    text = f"Spent at most ε = {numbers.epsilon(spent)} per patient, promised {words}: " + (
        "kept." if kept else "NOT KEPT."
    )
    if data.promise.noise_epsilon is not None:
        text += (
            f" The counts behind the results carry noise of ε = "
            f"{numbers.epsilon(data.promise.noise_epsilon)} for the test patients."
        )
    return text


def _release(data: ReportData) -> Iterator[str]:
    found = data.release
    if found is None:
        yield "Not released: no release of this model is known."
        return
    open_ = [flag for flag in found.flags if flag.open]
    who = f" by {found.by}" if found.by else ""
    if found.state == "not released":
        yield f"Not released{': ' + found.problem if found.problem else ''}."
    elif found.state == "released":
        yield f"Released{who}; every flag was answered for."
    else:
        yield f"Released{who} with open flags. Reason given: {found.reason or 'none'}"
    if open_:
        gates = dict.fromkeys(flag.gate for flag in open_)
        many = "flags are" if len(open_) > 1 else "flag is"
        yield f"{len(open_)} {many} open (gates: {', '.join(gates)})."


def _rates_differ(contrast: Contrast) -> bool:
    """Does the interval of the difference of the base rates exclude 0?"""
    one, other = contrast.base_rate, contrast.reference_base_rate
    n, m = contrast.n, contrast.reference_n
    if one is None or other is None or not n or not m:
        return False
    low, high = newcombe((round(one * n), n), (round(other * m), m))
    return low > 0 or high < 0


def _listed(names: list[str], between: str = ", ") -> str:
    more = f"{between}and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return between.join(names[:LISTED]) + more
