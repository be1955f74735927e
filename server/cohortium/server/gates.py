"""The release gates: what of a study's evidence a person has to answer for before its model leaves.

A gate is open while one of its flags is. A flag is a hash over the study and what was found, the
numbers included: the same finding always has the same name, and another number is another flag.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cohortium.common.document import Document, one_line
from cohortium.common.evaluating import Gate
from cohortium.common.fairness.attributes import OTHERS, SITE
from cohortium.common.fairness.verdicts import Contrast, FairnessAudit
from cohortium.common.messages import Spent
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.privacy.selftest import Selftest
from cohortium.common.study import Study
from cohortium.server.store import RoundRecord

Kind = Gate | Literal["withdrawal"]

ID_DIGITS = 8
MAX_TEXT = 300
OVERALL = ", over all sites"
ROUNDING = 1e-9  # what epsilon may exceed its promise by, relative to it
IMPLAUSIBLE, UNSIGNED, WITHDRAWN = "reply.protocol", "reply.signature", "data.withdrawn"


class Flag(Document):
    """One finding that keeps a gate open: about which site (None: the whole study), and what.

    numbers: what was measured, apart from the subject, as blinded documents leave it out by site.
    """

    study: str
    gate: Kind
    site: str | None
    subject: str
    numbers: str

    @property
    def digest(self) -> str:
        """SHA-256 over everything, hex."""
        content = [self.study, self.gate, self.site, self.subject, self.numbers]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def id(self) -> str:
        """What people call it by: the first digits of the digest."""
        return self.digest[:ID_DIGITS]

    @property
    def text(self) -> str:
        """One line for people."""
        where = f"{self.site}: " if self.site else ""
        return where + self.subject + (f": {self.numbers}" if self.numbers else "")


@dataclass(frozen=True)
class Findings:
    """What the gates look at, besides the study.

    evaluations: of the final model, by site. forged: how many replies in a site's name its key did
    not sign. withdrawn: sites that took their data out, and which rounds' models have it.
    selftests: audits by site, oldest first. codes: digests of the code that trained, by site, of
    those whose ledger rows are known.
    """

    rounds: Sequence[RoundRecord]
    audit: FairnessAudit
    forged: Mapping[str, int] = field(default_factory=dict)
    withdrawn: Mapping[str, str] = field(default_factory=dict)
    selftests: Mapping[str, Sequence[Selftest]] = field(default_factory=dict)
    codes: Mapping[str, Collection[str]] = field(default_factory=dict)


def flags(study: Study, found: Findings) -> tuple[Flag, ...]:
    """Every flag of the study's declared gates, and of the one that no study can do without."""
    raised = [flag for gate in study.release.gates for flag in GATES[gate](study, found)]
    return tuple(dict.fromkeys([*raised, *_withdrawals(study, found)]))


def final_evaluations(study: Study, rounds: Sequence[RoundRecord]) -> Mapping[str, SiteEvaluation]:
    """What sites said of the final model; nothing where only earlier ones were measured."""
    last = {record.round: record.evaluations for record in rounds}
    return last.get(study.training.rounds, {})


def contributors(study: Study, rounds: Sequence[RoundRecord]) -> tuple[str, ...]:
    """The sites whose updates are in the model, in the study's order."""
    replied = {site for record in rounds for site in record.replied}
    away = study.sites.evaluate_only
    return tuple(name for name in study.sites.names if name in replied and name not in away)


def spent(site: str, rounds: Sequence[RoundRecord]) -> Spent | None:
    """A site's last account of what the study cost its patients; None where it gave none."""
    return next((record.spent[site] for record in reversed(rounds) if site in record.spent), None)


def ranges(rounds: Sequence[int]) -> str:
    """Round numbers as people say them: `1 to 3, 7`."""
    runs: list[list[int]] = []
    for number in sorted(rounds):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _flag(study: Study, gate: Kind, site: str | None, subject: str, numbers: str = "") -> Flag:
    return Flag(
        study=study.digest,
        gate=gate,
        site=site,
        subject=one_line(subject, MAX_TEXT),
        numbers=one_line(numbers, MAX_TEXT),
    )


def _gaps(study: Study, found: Findings) -> Iterator[Flag]:
    """Each GAP, over all sites and at each site: an average may hide a group that is harmed."""
    for contrast in found.audit.contrasts:
        if contrast.verdict == "GAP":
            site = about_site(contrast)
            yield _flag(study, "fairness", site, subject_of(contrast), _numbers(contrast))


def about_site(contrast: Contrast) -> str | None:
    """The one site whose results a contrast shows: measured there, or there against all others."""
    return contrast.level if _of_sites(contrast) else contrast.site


def _of_sites(contrast: Contrast) -> bool:
    return (contrast.attribute, contrast.reference) == (SITE, OTHERS)


def subject_of(contrast: Contrast) -> str:
    """Who is compared with whom by what: `sex: female against male, equal opportunity`.

    Without the site, where it is about one.
    """
    criterion = contrast.criterion.replace("_", " ")
    outcome = f" of {contrast.outcome}" if contrast.outcome else ""
    if _of_sites(contrast):
        return f"this site against {contrast.reference}, {criterion}{outcome}"
    where = "" if contrast.site else OVERALL
    return (
        f"{contrast.attribute}: {contrast.level} against {contrast.reference}, "
        f"{criterion}{outcome}{where}"
    )


def _numbers(contrast: Contrast) -> str:
    word = "ratio" if contrast.criterion == "calibration" else "gap"
    return (
        f"{word} {number(contrast.gap)} (95% {number(contrast.low)} to {number(contrast.high)}), "
        f"margin {contrast.margin:g}; {_among(contrast.value, contrast.of)} against "
        f"{_among(contrast.reference_value, contrast.reference_of)}"
    )


def _among(value: float | None, patients: float | None) -> str:
    """`0.827 of 498`; of what is not counted in patients, such as AUROC, the value alone."""
    return number(value) if patients is None else f"{number(value)} of {patients}"


def number(value: float | None) -> str:
    """Three decimals, or a dash for what is not known."""
    return "-" if value is None else f"{value:.3f}"


def _unmeasured(study: Study, found: Findings) -> Iterator[Flag]:
    """Groups that no site could show, and sites of the model that said nothing of it."""
    for unseen in found.audit.invisible:
        if unseen.site is None:
            yield _flag(
                study,
                "measured",
                None,
                f"{unseen.attribute}: {unseen.level} was measured at no site",
                unseen.reason,
            )
    shown = final_evaluations(study, found.rounds)
    for site in contributors(study, found.rounds):
        if site not in shown:
            yield _flag(study, "measured", site, "trained the model and did not measure it")
    for site in study.sites.evaluate_only:
        if site not in shown:
            yield _flag(study, "measured", site, "was to validate the model and did not measure it")


def _overspent(study: Study, found: Findings) -> Iterator[Flag]:
    """Epsilon or delta above what every site approved, a cap that was passed, no account at all."""
    promised, delta = study.privacy.epsilon, study.privacy.delta
    if promised is None or delta is None:
        return  # without privacy nothing was promised; the card says so
    for site in contributors(study, found.rounds):
        account = spent(site, found.rounds)
        if account is None:
            yield _flag(study, "epsilon", site, "gave no account of what training cost")
            continue
        if account.epsilon > promised * (1 + ROUNDING) or account.delta > delta * (1 + ROUNDING):
            yield _flag(
                study,
                "epsilon",
                site,
                "spent more than was promised and approved",
                f"epsilon {account.epsilon:.4f} at delta {account.delta:g}, "
                f"promised {promised:g} at {delta:g}",
            )
        if account.lifetime_epsilon > account.cap_epsilon * (1 + ROUNDING):
            yield _flag(
                study,
                "epsilon",
                site,
                "is above its own lifetime cap",
                f"epsilon {account.lifetime_epsilon:.4f}, cap {account.cap_epsilon:g}",
            )


def _unaudited(study: Study, found: Findings) -> Iterator[Flag]:
    """Sites that have not shown, by audits of the code that trained, that noise and clipping work.

    Without privacy nothing was promised and nothing is audited. A failure is answered for by a
    person, also where a later run of the same code passed: a test is not repeated until it does.
    """
    if study.privacy.mechanism == "none":
        return
    for site in contributors(study, found.rounds):
        wanting = _wanting(study, found.selftests.get(site, ()), found.codes.get(site))
        if wanting:
            subject = "no empirical audit shows that its training is as private as promised"
            yield _flag(study, "privacy_audit", site, subject, "; ".join(wanting))


def _wanting(study: Study, tests: Sequence[Selftest], codes: Collection[str] | None) -> list[str]:
    """What is missing or failed of one site's audits, of each code that trained.

    Where no ledger row tells which code that was, the code of the site's newest audit counts.
    """
    if not tests:
        return ["L0 and L1 were not run"]
    said = []
    for code in sorted(codes or {tests[-1].code}):
        ours = [test for test in tests if test.code == code]
        of = f" of the code {code[:12]} that trained" if codes else ""
        for level in ("L0", "L1"):
            verdicts = [test.verdict for test in ours if test.level == level]
            if "failed" in verdicts:
                again = " and passed later" if verdicts[-1] == "passed" else ""
                said.append(f"{level}{of} failed{again}")
            elif "passed" not in verdicts:
                state = "was inconclusive" if verdicts else "was not run"
                said.append(f"{level}{of} {state}")
    whole = [test for test in tests if test.level == "L2" and test.study == study.digest]
    if any(test.verdict == "failed" for test in whole):
        said.append("L2 of this study failed")
    elif said and whole:
        said.append(f"L2 of this study {whole[-1].verdict}")
    return said


def _quarantined(study: Study, found: Findings) -> Iterator[Flag]:
    """Sites with replies that were left out: implausible, or not signed by their key."""
    for site in study.sites.names:
        out = _refusals(site, IMPLAUSIBLE, found.rounds)
        if out:
            why = next(iter(out.values())).removeprefix(f"{IMPLAUSIBLE}: ")
            numbers = f"in round {ranges(list(out))}: {why}"
            yield _flag(study, "quarantine", site, "replies were left out as implausible", numbers)
        late, times = _refusals(site, UNSIGNED, found.rounds), found.forged.get(site, 0)
        if late or times:
            numbers = f"{times} in all" if times else ""
            if late:
                numbers += f"{', ' if times else ''}none verified in round {ranges(list(late))}"
            subject = "replies in its name were not signed by its key"
            yield _flag(study, "quarantine", site, subject, numbers)


def _refusals(site: str, rule: str, rounds: Sequence[RoundRecord]) -> dict[int, str]:
    said = {record.round: record.refused.get(site, "") for record in rounds}
    return {number: reason for number, reason in said.items() if reason.startswith(rule)}


def _withdrawals(study: Study, found: Findings) -> Iterator[Flag]:
    """Sites that took their data out of a model that has learnt from it."""
    gone = dict(found.withdrawn)
    for site in contributors(study, found.rounds):
        if _refusals(site, WITHDRAWN, found.rounds):
            used = [record.round for record in found.rounds if site in record.replied]
            gone.setdefault(site, f"rounds {ranges(used)} and later")
    for site, used_in in gone.items():
        subject = "withdrew its data, which this model has learnt from"
        yield _flag(study, "withdrawal", site, subject, f"in the models of {used_in}")


GATES: Mapping[Gate, Callable[[Study, Findings], Iterator[Flag]]] = {
    "fairness": _gaps,
    "measured": _unmeasured,
    "epsilon": _overspent,
    "privacy_audit": _unaudited,
    "quarantine": _quarantined,
}
