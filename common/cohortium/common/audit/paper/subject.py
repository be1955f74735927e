"""What the papers are about: models, the results that may be shown of them, who answered for them.

A blinded study's results name no site and stand only where three sites or more show them, as in its
report; who trained, and with how many patients, is not said.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cohortium.common.audit.evidence import ESignature, Evidence, FlagFacts, StudyFacts
from cohortium.common.fairness.attributes import OTHERS, SITE
from cohortium.common.fairness.verdicts import Contrast, Invisible
from cohortium.common.metrics.performance import Performance, by_group

FEWEST = 3
DETAIL = frozenset({"balanced_accuracy", "f1", "mcc", "net_benefit", "npv", "mse"})
NOT_SAID = "not said: the study is blinded"


@dataclass(frozen=True)
class Result:
    """A measured value over all patients that sites show; `slice` a group, "" for everybody."""

    measure: str
    label: str
    slice: str
    value: float
    low: float | None
    high: float | None
    of: int | None


def folders(evidence: Evidence) -> list[tuple[str, StudyFacts]]:
    """Each study that has a model, with the folder of its papers (no slash at the end)."""
    found: dict[str, StudyFacts] = {}
    for facts in evidence.studies:
        if facts.model is None:
            continue
        name = f"model/{facts.study.name}"
        found[name if name not in found else f"{name}-{facts.digest[:8]}"] = facts
    return list(found.items())


def blinded(facts: StudyFacts) -> bool:
    return facts.study.evaluation.blinded


def called(evidence: Evidence, facts: StudyFacts, site: str) -> str:
    """A site's name beside a number of its own; of a blinded study only the site itself sees it."""
    return "a site" if blinded(facts) and evidence.role != "site" else site


def trained(facts: StudyFacts) -> dict[str, int]:
    """In how many rounds each site trained, in the study's order."""
    names = facts.study.sites.training
    rounds = {name: sum(name in one.replied for one in facts.rounds) for name in names}
    return {name: number for name, number in rounds.items() if number}


def sources(facts: StudyFacts) -> tuple[str, ...]:
    """Whose data is in the model: who trained, or all who were asked to where that is not said."""
    return facts.study.sites.training if blinded(facts) else tuple(trained(facts))


def results(facts: StudyFacts) -> tuple[Result, ...]:
    """Over all patients; what is not measured, or not shown, is left out."""
    return tuple(_results(facts, facts.performance, ""))


def group_results(facts: StudyFacts) -> tuple[Result, ...]:
    """By group of patients, over the sites that show it, at the first threshold: main measures."""
    first = facts.study.evaluation.thresholds[0]
    found: list[Result] = []
    for (attribute, level), measured in by_group(facts.evaluations, facts.study).items():
        main = [m for m in measured if m.threshold in (None, first) and m.measure not in DETAIL]
        found.extend(_results(facts, main, f"{attribute}={level}"))
    return tuple(found)


def _results(facts: StudyFacts, found: Sequence[Performance], where: str) -> Iterator[Result]:
    """Pooled values; a mean over sites where no site compares its patients with another's."""
    for one in found:
        shown = sum(estimate.value is not None for estimate in one.sites.values())
        if blinded(facts) and shown < FEWEST:
            continue
        if (pooled := one.pooled).value is not None:
            yield Result(
                one.measure, label(one), where, pooled.value, pooled.low, pooled.high, pooled.of
            )
        elif (mean := one.over_sites) is not None:
            name = f"{label(one)}, mean over sites"
            yield Result(one.measure, name, where, mean.mean, mean.low, mean.high, None)


def label(found: Performance) -> str:
    """A measure in words, with where it is taken: `sensitivity at 0.5`."""
    parts = [found.measure.replace("_", " ")]
    if found.part:
        parts.append(f"of {found.part}")
    if found.threshold is not None:
        parts.append(f"at {found.threshold:g}")
    if found.horizon is not None:
        parts.append(f"at time {found.horizon:g}")
    return " ".join(parts)


def contrasts(facts: StudyFacts) -> tuple[Contrast, ...]:
    """What may be shown of the comparisons of groups; those about one site last."""
    if facts.audit is None:
        return ()
    together = [one for one in facts.audit.contrasts if about_site(one) is None]
    if blinded(facts):
        return tuple(one for one in together if len(one.sites) >= FEWEST)
    return (*together, *(one for one in facts.audit.contrasts if about_site(one) is not None))


def about_site(contrast: Contrast) -> str | None:
    """The one site whose results a contrast shows: measured there, or there against all others."""
    of_sites = (contrast.attribute, contrast.reference) == (SITE, OTHERS)
    return contrast.level if of_sites else contrast.site


def question(contrast: Contrast) -> str:
    """Who is compared with whom by what: `sex: female against male, equal opportunity`."""
    criterion = contrast.criterion.replace("_", " ")
    outcome = f" of {contrast.outcome}" if contrast.outcome else ""
    if about_site(contrast) == contrast.level:
        return f"this site against {contrast.reference}, {criterion}{outcome}"
    groups = f"{contrast.attribute}: {contrast.level} against {contrast.reference}"
    return f"{groups}, {criterion}{outcome}"


def verdicts(facts: StudyFacts) -> dict[str, int]:
    """How often each verdict was given over all sites."""
    found: dict[str, int] = {}
    for one in contrasts(facts):
        if about_site(one) is None:
            found[one.verdict] = found.get(one.verdict, 0) + 1
    return dict(sorted(found.items()))


def invisible(facts: StudyFacts) -> tuple[Invisible, ...]:
    """Groups that nobody saw; where the study is not blinded, also those unseen at one site."""
    found = facts.audit.invisible if facts.audit else ()
    return tuple(one for one in found if one.site is None or not blinded(facts))


def flag_text(flag: FlagFacts, facts: StudyFacts) -> str:
    """A flag for people; of a blinded study only its gate where it is about one site."""
    if flag.site and blinded(facts):
        return f"one site: {flag.gate} ({NOT_SAID})"
    return flag.text


def answer(flag: FlagFacts, facts: StudyFacts) -> str:
    """What a person decided; of a blinded study without the reason where it is about one site."""
    if flag.open:
        return "OPEN: nobody answered"
    hidden = flag.site is not None and blinded(facts)
    return flag.decision if hidden else f"{flag.decision}: {flag.reason}"


def signatures(evidence: Evidence) -> list[tuple[StudyFacts, str, ESignature]]:
    """Every e-signature in the evidence: of which study, over what."""
    found = []
    for facts in evidence.studies:
        if facts.model and facts.model.release:
            found.append((facts, "release of the model", facts.model.release))
        for flag in facts.flags:
            if flag.signature:
                what = f"disposition of flag {flag.id} ({flag.gate}): {flag.decision}"
                found.append((facts, what, flag.signature))
    return found


def approvals(evidence: Evidence, facts: StudyFacts) -> dict[str, tuple[str, str]]:
    """By whom and when each site approved; names only where the audience may have them."""
    named = evidence.audience != "consortium" and not blinded(facts)
    found = {}
    for site in facts.study.sites.names:
        consent = facts.consents.get(site)
        if consent is not None and consent.decision == "approved":
            known = f"{len(consent.approvers)} named at the site"
            found[site] = (", ".join(consent.approvers) if named else known, consent.approved_at)
    return found
