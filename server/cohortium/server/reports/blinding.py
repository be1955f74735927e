"""A report that does not say which hospital a value belongs to.

Sites are called `site A`, `site B` and so on, in an order that only the coordinator's key gives: it
is the same in every report of a study, and nobody can work it out from the study. Left out is what
would tell a hospital by what is known of it: its size and everything that gives the size away
(counts, intervals), its base rate, its people, its budget, its absences. A value by site stands
only where three sites or more show one; so does a value over all patients, from which with two
sites each could subtract its own.
"""

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_origin

from cohortium.common.document import Document
from cohortium.common.fairness.attributes import SITE
from cohortium.common.fairness.verdicts import Contrast, FairnessAudit, Invisible
from cohortium.common.metrics.performance import Estimate, Performance
from cohortium.common.metrics.value import Compared, Crossed, Value
from cohortium.server.reports.findings import (
    CalibrationLine,
    Curve,
    FlagState,
    GroupPerformance,
    Horizon,
    ReleaseReport,
)
from cohortium.server.reports.report_data import (
    ReportData,
    RoundReport,
    SiteReport,
    Summary,
    Traffic,
)

FEWEST = 3
FEW = "blinded: fewer than three sites show it"
WITHHELD = "blinded"
ABOUT_THE_HOSPITAL = frozenset(
    ("prevalence", "observed_risk")
)  # measures of whom a site sees, not of the model
OURS = frozenset(("measure", "gate", "file", "load", "sha256", "version", "gap"))  # never names

D = TypeVar("D", bound=Document)


def pseudonyms(names: Sequence[str], secret: bytes) -> dict[str, str]:
    """`site A` and so on, in an order that nobody without the secret can tell."""
    ordered = sorted(names, key=lambda name: hmac.digest(secret, name.encode(), hashlib.sha256))
    return {name: f"site {_letters(place)}" for place, name in enumerate(ordered)}


def blinded(data: ReportData, secret: bytes) -> ReportData:
    """The same report without what identifies a site, its sites in the order of pseudonyms."""
    known = pseudonyms([site.name for site in data.sites], secret)
    enough = len(known) >= FEWEST
    reduced = data.model_copy(
        update={
            "blinding": "blinded",
            "state": _without_cause(data.state, known),
            "sites": tuple(_site(site, data.sites) for site in data.sites),
            "traffic": _traffic(data.sites),
            "summary": data.summary if enough else Summary(),
            "performance": tuple(map(_performance, data.performance)),
            "by_group": tuple(map(_group, data.by_group)),
            "audit": _audit(data.audit, len(known)) if data.audit else None,
            "reliability": tuple(c for c in data.reliability if _pooled(c)),
            "net_benefit": tuple(b for b in data.net_benefit if b.sites >= FEWEST),
            "calibration": _calibration(data.calibration),
            "horizons": tuple(h for h in data.horizons if _pooled(h)),
            "worth": _worth(data.worth),
            "explained": data.explained
            if data.explained and data.explained.sites >= FEWEST
            else None,
            "release": _release(data.release) if data.release else None,
            "rounds": tuple(_round(one, enough) for one in data.rounds),
            "proof": data.proof.model_copy(update={"hosts": ()}),
        }
    )
    return _renamed(reduced, _renamer(known))


def over_all_sites(found: Performance) -> Performance:
    """A measure over all patients, where enough sites show it; nothing of a single one."""
    return _performance(found).model_copy(update={"sites": {}})


def audit_over_all_sites(audit: FairnessAudit, sites: int) -> FairnessAudit:
    """What an audit says over all sites, where enough show it; nothing of a single one."""
    reduced = _audit(audit, sites)
    odds = [one for one in reduced.equalised_odds if one.site is None and one.attribute != SITE]
    return reduced.model_copy(
        update={
            "contrasts": tuple(one for one in reduced.contrasts if not _by_site(one)),
            "equalised_odds": tuple(odds),
        }
    )


def _letters(place: int) -> str:
    """A to Z, then AA, AB and so on."""
    text = chr(ord("A") + place % 26)
    return text if place < 26 else _letters(place // 26 - 1) + text


def _by_pseudonym(items: list[Any]) -> list[Any]:
    """What is about sites not in the study's order, which would tell them, but in theirs.

    Rows that differ by their site only move to the place of the first of them.
    """
    if not any(_site_of(item) for item in items):
        return items
    firsts: dict[Any, int] = {}
    for place, item in enumerate(items):
        firsts.setdefault(_what(item), place)
    return sorted(items, key=lambda item: (firsts[_what(item)], _order(_site_of(item))))


def _what(item: Any) -> tuple[Any, ...]:
    """What a row is about, apart from the site."""
    keys = ("attribute", "level", "criterion", "other", "measure", "gate", "subject", "horizon")
    return tuple(getattr(item, key, None) for key in keys)


def _site_of(item: Any) -> str:
    if isinstance(item, SiteReport):
        return item.name
    if isinstance(item, Crossed):
        return item.model
    return getattr(item, "site", None) or ""


def _order(pseudonym: str) -> tuple[int, str]:
    return len(pseudonym), pseudonym


def _renamer(known: Mapping[str, str]) -> Callable[[str], str]:
    """A site's name anywhere in a text becomes its pseudonym, however it is written."""
    lower = {name.lower(): pseudonym for name, pseudonym in known.items()}
    if not lower:
        return lambda text: text
    longest_first = sorted(lower, key=len, reverse=True)
    names = "|".join(re.escape(name) for name in longest_first)
    pattern = re.compile(rf"(?<![\w])(?:{names})(?![\w])", re.IGNORECASE)
    return lambda text: pattern.sub(lambda found: lower[found[0].lower()], text)


def _renamed(document: D, rename: Callable[[str], str]) -> D:
    """Every text in a document, keys too, except words of our own such as a verdict."""
    changed = {
        name: _value(getattr(document, name), rename)
        for name, field in type(document).model_fields.items()
        if name not in OURS and get_origin(field.annotation) is not Literal
    }
    return document.model_copy(update=changed)


def _value(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return rename(value)
    if isinstance(value, Document):
        return _renamed(value, rename)
    if isinstance(value, Mapping):
        changed = {rename(key): _value(item, rename) for key, item in value.items()}
        same = list(changed) == list(value)
        return changed if same else dict(sorted(changed.items(), key=lambda kv: _order(kv[0])))
    if isinstance(value, tuple):
        return tuple(_by_pseudonym([_value(item, rename) for item in value]))
    return value


def _without_cause(state: str, known: Mapping[str, str]) -> str:
    """Why a study ended names who was away: only that it ended is said."""
    return state if _renamer(known)(state) == state else state.split(" (")[0]


def _site(site: SiteReport, sites: Sequence[SiteReport]) -> SiteReport:
    def shown(key: str) -> bool:
        return sum(one.headline.get(key) is not None for one in sites) >= FEWEST

    return SiteReport(
        name=site.name,
        patients_band=WITHHELD,
        delta=site.delta,
        sampler=site.sampler,
        noise_multiplier=site.noise_multiplier,
        headline={k: value if shown(k) else None for k, value in site.headline.items()},
    )


def _traffic(sites: Sequence[SiteReport]) -> tuple[Traffic, ...]:
    """Of all sites together: who was silent would show in its own."""
    total: dict[str, tuple[int, int]] = {}
    for site in sites:
        for message in site.messages:
            count, size = total.get(message.kind, (0, 0))
            total[message.kind] = (count + message.count, size + message.bytes)
    return tuple(Traffic(kind=kind, count=n, bytes=size) for kind, (n, size) in total.items())


def _performance(found: Performance) -> Performance:
    shown = sum(one.value is not None for one in found.sites.values())
    enough = shown >= FEWEST
    by_site = enough and found.measure not in ABOUT_THE_HOSPITAL
    over = found.over_sites
    return found.model_copy(
        update={
            "sites": {
                name: Estimate(
                    value=one.value if by_site else None,
                    reason="" if by_site and one.value is not None else WITHHELD,
                )
                for name, one in found.sites.items()
            },
            "pooled": found.pooled if enough or found.pooled.value is None
            else Estimate(reason=FEW),
            "over_sites": over if over is not None and over.sites >= FEWEST else None,
        }
    )  # fmt: skip


def _group(group: GroupPerformance) -> GroupPerformance:
    return group.model_copy(update={"performance": tuple(map(_performance, group.performance))})


def _audit(audit: FairnessAudit, sites: int) -> FairnessAudit:
    shown = Counter(_key(c) for c in audit.contrasts if _by_site(c) and c.gap is not None)
    contrasts = tuple(_contrast(c, shown[_key(c)] >= FEWEST) for c in audit.contrasts)
    where = Counter((i.attribute, i.level) for i in audit.invisible if i.site is not None)
    return FairnessAudit(
        contrasts=contrasts,
        equalised_odds=tuple(
            one.model_copy(update={"gap": None})
            if shown[one.attribute, one.level, one.outcome, "equal_opportunity"] < FEWEST
            else one
            for one in audit.equalised_odds
        ),
        extremes=tuple(
            one.model_copy(update={"sites": ()})
            for one in audit.extremes
            if len(one.sites) >= FEWEST and one.attribute != SITE
        ),
        invisible=(
            *(one for one in audit.invisible if one.site is None),
            *(
                Invisible(attribute=a, level=level, site=f"{n} of {sites} sites", reason=WITHHELD)
                for (a, level), n in where.items()
            ),
        ),
    )


def _by_site(contrast: Contrast) -> bool:
    """Is it about one site: at it, or it against all others?"""
    return contrast.site is not None or contrast.attribute == SITE


def _key(contrast: Contrast) -> tuple[str, str, str, str]:
    """What is compared; where sites are, all of them together."""
    level = "" if contrast.attribute == SITE else contrast.level
    return contrast.attribute, level, contrast.outcome, contrast.criterion


def _contrast(contrast: Contrast, enough: bool) -> Contrast:
    """The verdict stays; the numbers go where too few sites show them; sizes by site always."""
    named = contrast.model_copy(update={"sites": ()})
    if contrast.gap is None:
        return _cleared(named, WITHHELD if _by_site(contrast) else contrast.reason)
    if not enough:
        return _cleared(named, FEW)
    if not _by_site(contrast):
        return named
    kept = ("value", "gap")
    return _cleared(named, "").model_copy(update={k: getattr(contrast, k) for k in kept})


def _cleared(contrast: Contrast, reason: str) -> Contrast:
    numbers = (
        "n reference_n of reference_of base_rate reference_base_rate value reference_value gap "
        "low high p adjusted_p detectable"
    )
    return contrast.model_copy(update={**dict.fromkeys(numbers.split()), "reason": reason})


def _pooled(one: Curve | Horizon) -> bool:
    return one.site is None and one.sites >= FEWEST


def _calibration(lines: Sequence[CalibrationLine]) -> tuple[CalibrationLine, ...]:
    enough = sum(line.site is not None and line.slope is not None for line in lines) >= FEWEST
    pooled = tuple(
        line
        if line.sites >= FEWEST or line.slope is None
        else CalibrationLine(site=None, attribute=line.attribute, level=line.level, reason=FEW)
        for line in lines
        if line.site is None
    )
    if not enough:
        return pooled
    return pooled + tuple(
        CalibrationLine(
            site=line.site,
            attribute=line.attribute,
            level=line.level,
            intercept=line.intercept,
            slope=line.slope,
            reason="" if line.slope is not None else WITHHELD,
        )
        for line in lines
        if line.site is not None
    )  # fmt: skip


def _worth(worth: Value) -> Value:
    shown = Counter(
        (one.other, one.measure, one.attribute, one.level)
        for one in worth.compared
        if one.site is not None and one.difference is not None
    )
    return worth.model_copy(
        update={
            "compared": tuple(
                _compared(one, shown[one.other, one.measure, one.attribute, one.level] >= FEWEST)
                for one in worth.compared
            ),
            "crossed": tuple(map(_crossed, worth.crossed)),
        }
    )


def _compared(one: Compared, enough: bool) -> Compared:
    if one.site is None and enough:
        return one
    keep = enough and one.difference is not None
    return Compared(
        other=one.other,
        measure=one.measure,
        site=one.site,
        attribute=one.attribute,
        level=one.level,
        federated=one.federated if keep else None,
        other_value=one.other_value if keep else None,
        difference=one.difference if keep else None,
        reason="" if keep else WITHHELD if enough else FEW,
    )


def _crossed(one: Crossed) -> Crossed:
    enough = sum(value is not None for value in one.sites.values()) >= FEWEST
    return one.model_copy(
        update={"sites": {name: v if enough else None for name, v in one.sites.items()}}
    )


def _release(release: ReleaseReport) -> ReleaseReport:
    """A flag's id is a hash that with few sites could be tried out: it goes where a site is."""
    return release.model_copy(update={"flags": tuple(map(_flag, release.flags))})


def _flag(flag: FlagState) -> FlagState:
    if flag.site is None:
        return flag
    return flag.model_copy(update={"id": None, "numbers": ""})


def _round(one: RoundReport, enough: bool) -> RoundReport:
    away: dict[str, None] = {"replied": None, "missing": None}
    values = one.headline if enough else dict.fromkeys(one.headline)
    return one.model_copy(update={**away, "headline": values})
